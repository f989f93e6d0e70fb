//! `siskin check`, and what `serve` does with definitions that have mistakes.

mod mistakes;
mod reload;
mod serve;
