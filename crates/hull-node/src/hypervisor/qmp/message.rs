//! What the other side says: bytes to lines, lines to messages. Pure; bounded; never panics on a stranger's bytes.

use serde_json::{Map, Value};

/// Longest line taken from the peer, in bytes. `query-*` answers of large machines stay well below a megabyte; a peer
/// that sends more is broken or hostile.
pub const MAX_LINE: usize = 4 << 20;

/// A message of QEMU's.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// The first line of a connection.
    Greeting {
        /// `7.2.22`.
        version: String,
    },
    /// A command succeeded.
    Return {
        /// The command's id.
        id: u64,
        /// Its answer.
        value: Value,
    },
    /// A command was refused.
    Refusal {
        /// The command's id.
        id: u64,
        /// `GenericError`, `CommandNotFound`, …
        class: String,
        /// A sentence of QEMU's.
        desc: String,
    },
    /// Something happened.
    Event(Event),
    /// Anything else: newer QEMU's, or noise. Ignored.
    Other,
}

/// Something happened in the machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// `SHUTDOWN`, `STOP`, …; unknown ones pass through.
    pub name: String,
    /// Its fields.
    pub data: Value,
}

impl Message {
    /// Reads one line. What is not understood is [`Message::Other`]: QEMU may grow, and we live on.
    pub fn parse(line: &[u8]) -> Self {
        match serde_json::from_slice(line) {
            Ok(Value::Object(object)) => Self::from_object(object),
            Ok(_) | Err(_) => Self::Other,
        }
    }

    fn from_object(mut object: Map<String, Value>) -> Self {
        if let Some(greeting) = object.get("QMP") {
            return Self::Greeting { version: version(greeting) };
        }
        if let Some(Value::String(name)) = object.remove("event") {
            return Self::Event(Event { name, data: object.remove("data").unwrap_or(Value::Null) });
        }
        let Some(id) = object.get("id").and_then(Value::as_u64) else { return Self::Other };
        if let Some(value) = object.remove("return") {
            return Self::Return { id, value };
        }
        match object.get("error") {
            Some(error) => Self::Refusal { id, class: text(error, "class"), desc: text(error, "desc") },
            None => Self::Other,
        }
    }
}

fn version(greeting: &Value) -> String {
    let part = |name| greeting.pointer(&format!("/version/qemu/{name}")).and_then(Value::as_u64).unwrap_or(0);
    format!("{}.{}.{}", part("major"), part("minor"), part("micro"))
}

fn text(error: &Value, field: &str) -> String {
    error.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Cuts a byte stream into lines of at most `limit` bytes.
#[derive(Debug)]
pub struct Lines {
    pending: Vec<u8>,
    limit: usize,
}

/// A line was longer than the limit: nothing after it can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a line of more than {0} bytes")]
pub struct TooLong(pub usize);

impl Lines {
    /// Lines of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { pending: Vec::new(), limit }
    }

    /// Takes bytes, gives the lines they complete.
    ///
    /// # Errors
    /// When the line under way is longer than the limit.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, TooLong> {
        let mut lines = Vec::new();
        let mut pieces = bytes.split(|byte| *byte == b'\n').peekable();
        while let Some(piece) = pieces.next() {
            if self.pending.len() + piece.len() > self.limit {
                return Err(TooLong(self.limit));
            }
            self.pending.extend_from_slice(piece);
            if pieces.peek().is_some() {
                lines.push(std::mem::take(&mut self.pending));
            }
        }
        Ok(lines)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_what_qemu_says() {
        let greeting =
            br#"{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}, "capabilities": ["oob"]}}"#;
        assert_eq!(Message::parse(greeting), Message::Greeting { version: "7.2.22".into() });
        assert_eq!(
            Message::parse(br#"{"return": {"status": "running"}, "id": 3, "new-field": 1}"#),
            Message::Return { id: 3, value: serde_json::json!({"status": "running"}) }
        );
        assert_eq!(
            Message::parse(br#"{"id": 4, "error": {"class": "GenericError", "desc": "no"}}"#),
            Message::Refusal { id: 4, class: "GenericError".into(), desc: "no".into() }
        );
        let event = Message::parse(br#"{"timestamp": {"seconds": 1}, "event": "NEVER_SEEN", "data": {"a": 1}}"#);
        assert_eq!(event, Message::Event(Event { name: "NEVER_SEEN".into(), data: serde_json::json!({"a": 1}) }));
    }

    #[test]
    fn noise_is_other() {
        for noise in [&b"[]"[..], b"{", b"\xff\xff", b"{\"id\": \"text\", \"return\": 1}", b"{\"error\": 1}", b""] {
            assert_eq!(Message::parse(noise), Message::Other);
        }
        let deep = "[".repeat(100_000);
        assert_eq!(Message::parse(deep.as_bytes()), Message::Other);
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut lines = Lines::new(10);
        assert_eq!(lines.push(b"12345678\n9").unwrap(), vec![b"12345678".to_vec()]);
        assert_eq!(lines.push(&[b'x'; 10]), Err(TooLong(10)));
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces(bytes in proptest::collection::vec(any::<u8>(), 0..400), cut in 1_usize..50) {
            let mut lines = Lines::new(1000);
            let mut seen = Vec::new();
            for piece in bytes.chunks(cut) {
                for line in lines.push(piece).unwrap() {
                    Message::parse(&line);
                    seen.extend_from_slice(&line);
                    seen.push(b'\n');
                }
            }
            seen.extend_from_slice(&lines.pending);
            prop_assert_eq!(seen, bytes);
        }

        #[test]
        fn any_json_object(keys in proptest::collection::vec("QMP|event|return|error|id|data|[a-z]{1,3}", 0..6), n in any::<i64>()) {
            let object: Map<String, Value> = keys.into_iter().map(|key| (key, Value::from(n))).collect();
            Message::parse(Value::Object(object).to_string().as_bytes());
        }
    }
}
