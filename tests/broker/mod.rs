//! Work done by other processes, over a real RabbitMQ.

mod basics;
mod broker_dies;
mod files;
mod kills;
mod poison;
mod routes;
mod servers;
mod stage;
mod workers;
