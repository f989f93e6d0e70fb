//! Somebody else at a broker: declares their queues and exchanges, sends, and looks at what is left.

use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, LongString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};
use tokio::runtime::Runtime;

/// One connection with one channel.
pub(crate) struct Publisher {
    runtime: Runtime,
    _connection: Connection,
    channel: Channel,
}

impl Publisher {
    pub(crate) fn connect(url: &str) -> Publisher {
        let runtime = Runtime::new().unwrap();
        let (connection, channel) = runtime.block_on(async {
            let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
            let channel = connection.create_channel().await.unwrap();
            channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
            (connection, channel)
        });
        Publisher { runtime, _connection: connection, channel }
    }

    /// A durable queue; what it rejects goes to the queue `dead`, where one is given.
    pub(crate) fn queue(&self, name: &str, dead: Option<&str>) {
        let mut arguments = FieldTable::default();
        if let Some(dead) = dead {
            self.queue(dead, None);
            let text = |text: &str| AMQPValue::LongString(LongString::from(text));
            arguments.insert("x-dead-letter-exchange".into(), text(""));
            arguments.insert("x-dead-letter-routing-key".into(), text(dead));
        }
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.runtime.block_on(self.channel.queue_declare(name.into(), options, arguments)).unwrap();
    }

    /// A durable topic exchange.
    pub(crate) fn exchange(&self, name: &str) {
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let declared =
            self.channel.exchange_declare(name.into(), ExchangeKind::Topic, options, FieldTable::default());
        self.runtime.block_on(declared).unwrap();
    }

    /// Sends a message, and waits until the broker has it.
    pub(crate) fn send(&self, exchange: &str, key: &str, properties: BasicProperties, body: &[u8]) {
        let sent = self.channel.basic_publish(
            exchange.into(),
            key.into(),
            BasicPublishOptions::default(),
            body,
            properties.with_delivery_mode(2),
        );
        let confirmed = self.runtime.block_on(async { sent.await.unwrap().await.unwrap() });
        assert!(confirmed.is_ack());
    }

    /// Takes a message out of a queue.
    pub(crate) fn take(&self, queue: &str) -> Option<Vec<u8>> {
        let options = BasicGetOptions { no_ack: true };
        let found = self.runtime.block_on(self.channel.basic_get(queue.into(), options)).unwrap();
        found.map(|found| found.delivery.data)
    }
}

/// The properties of a JSON message.
pub(crate) fn json(id: &str) -> BasicProperties {
    BasicProperties::default().with_content_type("application/json".into()).with_message_id(id.into())
}
