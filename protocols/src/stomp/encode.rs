//! Frames into bytes, for servers and for clients.
//!
//! Headers are escaped by the version (see [`Escaping`]); what a version cannot say is replaced,
//! never written raw, so no text from another protocol becomes a header of its own.

use super::Version;
use super::frame::{Buffer, Escaping, buffer};

/// Writes one frame: the command, then headers, then the body.
#[derive(Clone, Debug)]
pub struct FrameWriter {
    buffer: Buffer,
    escaping: Escaping,
}

impl FrameWriter {
    /// Begins a frame; `None` is for those before the version is negotiated.
    pub fn new(command: &str, version: Option<Version>) -> Self {
        let mut buffer = buffer();
        buffer.extend_from_slice(command.as_bytes());
        buffer.push(b'\n');
        Self {
            buffer,
            escaping: Escaping::of(command, version),
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        put_header(&mut self.buffer, self.escaping, name, value);
        self
    }

    /// Adds a header if there is a value for it.
    #[must_use]
    pub fn header_if(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.header(name, value),
            None => self,
        }
    }

    /// Ends a frame that has no body.
    pub fn end(mut self) -> Vec<u8> {
        self.buffer.extend_from_slice(b"\n\0");
        self.buffer
    }

    /// Ends the frame with a body and its `content-length`; the body may contain NUL.
    pub fn body(mut self, body: &[u8]) -> Vec<u8> {
        put_content_length(&mut self.buffer, body.len());
        let mut frame = Vec::with_capacity(self.buffer.len() + body.len() + 1);
        frame.extend_from_slice(&self.buffer);
        frame.extend_from_slice(body);
        frame.push(0);
        frame
    }
}

/// Writes one header line.
pub(super) fn put_header(buffer: &mut Buffer, escaping: Escaping, name: &str, value: &str) {
    escaping.put_name(name, buffer);
    buffer.push(b':');
    escaping.put_value(value, buffer);
    buffer.push(b'\n');
}

/// Writes the header that ends a head, and the blank line.
pub(super) fn put_content_length(buffer: &mut Buffer, length: usize) {
    buffer.extend_from_slice(b"content-length:");
    put_number(buffer, length as u64);
    buffer.extend_from_slice(b"\n\n");
}

/// Writes a number in digits.
pub(super) fn put_number(buffer: &mut Buffer, number: u64) {
    let mut digits = itoa::Buffer::new();
    buffer.extend_from_slice(digits.format(number).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_written_by_version() {
        let frame = FrameWriter::new("SEND", Some(Version::V1_2))
            .header("a:b", "c\nd")
            .body(b"x\0y");
        assert_eq!(frame, b"SEND\na\\cb:c\\nd\ncontent-length:3\n\nx\0y\0");
        let login = FrameWriter::new("CONNECT", Some(Version::V1_2))
            .header("passcode", "a\\b:c\nevil:1")
            .end();
        assert_eq!(login, b"CONNECT\npasscode:a\\b:c evil:1\n\n\0");
    }

    #[test]
    fn numbers_are_digits() {
        for number in [0, 7, 10, 1234, u64::MAX] {
            let mut buffer = Buffer::new();
            put_number(&mut buffer, number);
            assert_eq!(buffer.as_slice(), number.to_string().as_bytes());
        }
    }
}
