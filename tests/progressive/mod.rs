//! Rolls behind a real HAProxy, with hosts whose service is restarted by the installation: what a client sees of them, and what is left when the server is
//! killed. Traffic that is let in slowly, judged by a real Prometheus and a real Alertmanager.

mod configured;
mod gradually;
mod killed;
mod traffic;
mod world;
