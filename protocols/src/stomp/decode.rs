//! Frames out of a byte stream, for servers and for clients.
//!
//! The scan is resumable: a frame that arrives byte by byte costs no more than one that arrives
//! whole. Nothing is allocated from a claimed length; a length over the bounds is refused when
//! its head is complete. What was read is checked whole (UTF-8, escapes, form of each header)
//! before a [`Frame`] exists.

use memchr::{memchr, memchr2};
use smallvec::SmallVec;

use super::Version;
use super::frame::{Escaping, Frame};
use crate::connection::Cause;
use crate::find::{Special, find};
use crate::limits::Limits;

/// What a frame may measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Bytes of a whole frame, its NUL included.
    pub frame_bytes: usize,
    /// Number of headers.
    pub headers: usize,
    /// Bytes of the command or of one header line.
    pub line_bytes: usize,
    /// Bytes of the command and all header lines.
    pub head_bytes: usize,
}

impl Bounds {
    /// For a client that is not logged in.
    pub fn before_login(limits: &Limits) -> Self {
        Self {
            frame_bytes: limits.packet_bytes_before_login,
            ..Self::after_login(limits)
        }
    }

    /// For one that is.
    pub fn after_login(limits: &Limits) -> Self {
        Self {
            frame_bytes: limits.packet_bytes,
            headers: limits.stomp_headers,
            line_bytes: limits.stomp_line_bytes,
            head_bytes: limits.stomp_header_bytes,
        }
    }
}

/// What the beginning of the input is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "it lives on the stack for one frame"
)]
pub enum Decoded<'a> {
    /// Not a whole frame yet: offer the same bytes with more behind them.
    Incomplete,
    /// That many bytes of line ends between frames (STOMP 1.2 §Heart-beating).
    HeartBeats(usize),
    /// A frame; it used up [`Frame::raw`].
    Frame(Frame<'a>),
}

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A command or header line over the bound.
    #[error("a command or header line has at most {max} bytes")]
    LineTooLong {
        /// Bytes allowed.
        max: usize,
    },
    /// More bytes before the body than allowed.
    #[error("the headers have together at most {max} bytes")]
    HeadTooLong {
        /// Bytes allowed.
        max: usize,
    },
    /// More headers than allowed.
    #[error("a frame has at most {max} headers")]
    TooManyHeaders {
        /// Headers allowed.
        max: usize,
    },
    /// A frame, or the one that `content-length` announces, over the bound.
    #[error("a frame has at most {max} bytes")]
    FrameTooLarge {
        /// Bytes allowed.
        max: usize,
    },
    /// `content-length` is not a number of bytes.
    #[error("content-length must be a number of bytes")]
    ContentLength,
    /// The byte behind a body of `content-length` bytes is not NUL.
    #[error("the body is longer than content-length says: no NUL follows it")]
    ContentLengthMismatch,
    /// A NUL before the body.
    #[error("there is a NUL before the blank line that ends the headers")]
    NulInHead,
    /// A header line without a colon, or without a name before it.
    #[error("a header line must be NAME:VALUE")]
    Header,
    /// A carriage return that ends no line.
    #[error("a carriage return must be written as \\r")]
    CarriageReturn,
    /// A backslash that begins no escape of the version.
    #[error("undefined escape sequence in a header")]
    UndefinedEscape,
    /// Headers that are not UTF-8.
    #[error("the headers must be UTF-8")]
    NotUtf8,
}

impl DecodeError {
    /// The kind of end that it means for a connection.
    pub fn cause(self) -> Cause {
        match self {
            Self::LineTooLong { .. }
            | Self::HeadTooLong { .. }
            | Self::TooManyHeaders { .. }
            | Self::FrameTooLarge { .. } => Cause::TooLarge,
            Self::NotUtf8 => Cause::NotUtf8,
            Self::ContentLength
            | Self::ContentLengthMismatch
            | Self::NulInHead
            | Self::Header
            | Self::CarriageReturn
            | Self::UndefinedEscape => Cause::Malformed,
        }
    }
}

/// Finds the frames of one stream.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    version: Option<Version>,
    scan: Scan,
}

/// How far the frame at the beginning of the input was looked at.
#[derive(Clone, Debug, Default)]
struct Scan {
    /// Bytes seen.
    at: usize,
    /// Where the current line begins.
    line: usize,
    headers: usize,
    content_length: Option<usize>,
    /// Where the body begins; 0 while the head is not complete.
    body: usize,
}

impl Decoder {
    /// For a stream whose version was not negotiated yet: nothing is unescaped.
    pub fn new() -> Self {
        Self::default()
    }

    /// For a stream of this version.
    pub fn with_version(version: Version) -> Self {
        Self {
            version: Some(version),
            scan: Scan::default(),
        }
    }

    /// Tells the version that was negotiated, between two frames.
    pub fn set_version(&mut self, version: Version) {
        self.version = Some(version);
    }

    /// Looks at the beginning of `input`, which must begin where the last frame or heart-beat
    /// ended. After an error the stream cannot go on.
    pub fn decode<'a>(
        &mut self,
        input: &'a [u8],
        bounds: &Bounds,
    ) -> Result<Decoded<'a>, DecodeError> {
        if self.scan.at == 0 {
            let ends = line_ends(input);
            if ends > 0 {
                return Ok(Decoded::HeartBeats(ends));
            }
            // Half of a CRLF.
            if input == b"\r" {
                return Ok(Decoded::Incomplete);
            }
        }
        if self.scan.at == 0
            && let Some(frame) = self.plain(input, bounds)
        {
            return Ok(Decoded::Frame(frame));
        }
        if self.scan.body == 0 && !self.scan.head(input, bounds)? {
            return Ok(Decoded::Incomplete);
        }
        let Some(end) = self.scan.body_end(input, bounds)? else {
            return Ok(Decoded::Incomplete);
        };
        let body = std::mem::take(&mut self.scan).body;
        let frame = self.frame(&input[..=end], body)?;
        Ok(Decoded::Frame(frame))
    }

    /// A whole frame in whose head every line and every value stands as it is: no carriage return,
    /// no escape. It is read in one pass. `None` for any other, and for what is no frame: the scan
    /// tells what it is.
    fn plain<'a>(&self, input: &'a [u8], bounds: &Bounds) -> Option<Frame<'a>> {
        let first = memchr(b'\n', input)?;
        // Where the colon of each header is, and where its line ends.
        let mut marks: SmallVec<[(usize, usize); 8]> = SmallVec::new();
        let mut at = first + 1;
        let body = loop {
            let end = at + memchr(b'\n', &input[at..])?;
            if end == at {
                break end + 1;
            }
            let colon = memchr(b':', &input[at..end]).filter(|colon| *colon > 0)?;
            if end - at > bounds.line_bytes || marks.len() == bounds.headers {
                return None;
            }
            marks.push((at + colon, end));
            at = end + 1;
        };
        let head = &input[..body];
        if first > bounds.line_bytes || body > bounds.head_bytes || find::<Unplain>(head).is_some()
        {
            return None;
        }
        let head = simdutf8::basic::from_utf8(head).ok()?;
        let mut headers = SmallVec::new();
        let mut content_length = None;
        let mut at = first + 1;
        for (colon, end) in marks {
            let (name, value) = (head.get(at..colon)?, head.get(colon + 1..end)?);
            if content_length.is_none() && name == "content-length" {
                content_length = Some(length(value.as_bytes().trim_ascii())?);
            }
            headers.push((name, self.trimmed(value)));
            at = end + 1;
        }
        let end = match content_length {
            Some(length) => body.checked_add(length)?,
            None => body + memchr(0, &input[body..])?,
        };
        if end >= bounds.frame_bytes || *input.get(end)? != 0 {
            return None;
        }
        Some(Frame {
            raw: &input[..=end],
            command: head.get(..first)?,
            headers,
            body: &input[body..end],
            escaping: Escaping::Plain,
        })
    }

    fn frame<'a>(&self, raw: &'a [u8], body: usize) -> Result<Frame<'a>, DecodeError> {
        let head = simdutf8::basic::from_utf8(&raw[..body]).map_err(|_| DecodeError::NotUtf8)?;
        let mut lines = head.split_terminator('\n').map(without_cr);
        let command = lines.next().unwrap_or_default();
        let mut frame = Frame {
            raw,
            command,
            headers: SmallVec::new(),
            body: &raw[body..raw.len() - 1],
            escaping: Escaping::of(command, self.version),
        };
        // STOMP 1.0 and 1.1 do not forbid a carriage return within a line.
        let strict = !matches!(self.version, Some(Version::V1_0 | Version::V1_1));
        if (strict && head_has_cr(head)) || command.contains('\r') {
            return Err(DecodeError::CarriageReturn);
        }
        let escapes = frame.escaping != Escaping::Plain && head.contains('\\');
        if !escapes {
            frame.escaping = Escaping::Plain;
        }
        for line in lines.take_while(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').ok_or(DecodeError::Header)?;
            if name.is_empty() {
                return Err(DecodeError::Header);
            }
            if escapes && !(frame.escaping.accepts(name) && frame.escaping.accepts(value)) {
                return Err(DecodeError::UndefinedEscape);
            }
            frame.headers.push((name, self.trimmed(value)));
        }
        Ok(frame)
    }

    /// Spaces around a value mean nothing in STOMP 1.0, whose own examples have them; since 1.1
    /// they belong to it.
    fn trimmed<'a>(&self, value: &'a str) -> &'a str {
        match self.version {
            Some(Version::V1_0) => value.trim_matches(' '),
            _ => value,
        }
    }
}

/// What a head must not have to be read as it stands.
struct Unplain;

impl Special for Unplain {
    const BELOW: u8 = 1;
    const OTHERS: &'static [u8] = b"\r\\";
}

impl Scan {
    /// Goes on through the head; true when the body begins.
    fn head(&mut self, input: &[u8], bounds: &Bounds) -> Result<bool, DecodeError> {
        loop {
            let found = memchr2(b'\n', 0, &input[self.at..]).map(|found| self.at + found);
            let end = found.unwrap_or(input.len());
            check_line(&input[self.line..end], end, found.is_some(), bounds)?;
            let Some(end) = found else {
                self.at = input.len();
                return Ok(false);
            };
            if input[end] == 0 {
                return Err(DecodeError::NulInHead);
            }
            let line = input[self.line..end].strip_suffix(b"\r");
            let line = line.unwrap_or(&input[self.line..end]);
            let first = self.line == 0;
            self.at = end + 1;
            self.line = end + 1;
            if line.is_empty() {
                self.body = end + 1;
                return Ok(true);
            }
            if !first {
                self.header(line, bounds)?;
            }
        }
    }

    fn header(&mut self, line: &[u8], bounds: &Bounds) -> Result<(), DecodeError> {
        self.headers += 1;
        if self.headers > bounds.headers {
            return Err(DecodeError::TooManyHeaders {
                max: bounds.headers,
            });
        }
        if let Some(value) = line.strip_prefix(b"content-length:")
            && self.content_length.is_none()
        {
            let length = length(value.trim_ascii()).ok_or(DecodeError::ContentLength)?;
            self.content_length = Some(length);
        }
        Ok(())
    }

    /// Goes on through the body; says where its NUL is.
    fn body_end(&mut self, input: &[u8], bounds: &Bounds) -> Result<Option<usize>, DecodeError> {
        let too_large = DecodeError::FrameTooLarge {
            max: bounds.frame_bytes,
        };
        if let Some(length) = self.content_length {
            let end = self.body.checked_add(length).ok_or(too_large)?;
            if end >= bounds.frame_bytes {
                return Err(too_large);
            }
            return match input.get(end) {
                None => Ok(None),
                Some(0) => Ok(Some(end)),
                Some(_) => Err(DecodeError::ContentLengthMismatch),
            };
        }
        let found = memchr(0, &input[self.at..]).map(|found| self.at + found);
        if found.unwrap_or(input.len()) >= bounds.frame_bytes {
            return Err(too_large);
        }
        self.at = input.len();
        Ok(found)
    }
}

/// Keeps the bounds of a line, complete or not, that ends (so far) at `end`.
fn check_line(line: &[u8], end: usize, complete: bool, bounds: &Bounds) -> Result<(), DecodeError> {
    // The last byte may be the CR of a line end that is not counted.
    let length = line.len() - usize::from(line.last() == Some(&b'\r'));
    if length > bounds.line_bytes {
        return Err(DecodeError::LineTooLong {
            max: bounds.line_bytes,
        });
    }
    if end + usize::from(complete) > bounds.head_bytes {
        return Err(DecodeError::HeadTooLong {
            max: bounds.head_bytes,
        });
    }
    Ok(())
}

/// The receipt that a frame asks for, as far as its head can be read: so that an ERROR can name
/// it even if the frame is no good.
pub(super) fn receipt_of<'a>(input: &'a [u8], bounds: &Bounds) -> Option<&'a str> {
    let head = &input[..input.len().min(bounds.head_bytes)];
    let mut lines = head.split_inclusive(|byte| *byte == b'\n').skip(1);
    lines.find_map(|line| {
        let line = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
        without_cr(line).strip_prefix("receipt:")
    })
}

/// A number in digits alone.
fn length(text: &[u8]) -> Option<usize> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_usize, |number, byte| {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number.checked_mul(10)?.checked_add(digit.into())
    })
}

/// Bytes of line ends at the beginning.
fn line_ends(input: &[u8]) -> usize {
    let mut at = 0;
    loop {
        match input[at..] {
            [b'\n', ..] => at += 1,
            [b'\r', b'\n', ..] => at += 2,
            _ => return at,
        }
    }
}

fn without_cr(line: &str) -> &str {
    line.strip_suffix('\r').unwrap_or(line)
}

/// Whether there is a carriage return that no line feed follows.
fn head_has_cr(head: &str) -> bool {
    let bytes = head.as_bytes();
    memchr::memchr_iter(b'\r', bytes).any(|at| bytes.get(at + 1) != Some(&b'\n'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bounds() -> Bounds {
        Bounds {
            frame_bytes: 200,
            headers: 4,
            line_bytes: 40,
            head_bytes: 100,
        }
    }

    fn one(version: Version, input: &[u8]) -> Result<Decoded<'_>, DecodeError> {
        Decoder::with_version(version).decode(input, &bounds())
    }

    fn frame(version: Version, input: &[u8]) -> Frame<'_> {
        match one(version, input) {
            Ok(Decoded::Frame(frame)) => frame,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_frame_is_command_headers_and_body() {
        let input = b"SEND\na:1\na:2\nb\\c:x\\ny\n\nhello\0rest";
        let frame = frame(Version::V1_2, input);
        assert_eq!(frame.command(), "SEND");
        assert_eq!(frame.body(), b"hello");
        assert_eq!(frame.raw().len(), input.len() - 4);
        assert_eq!(frame.header("a").unwrap(), "1", "the first one wins");
        let all: Vec<_> = frame
            .headers()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert_eq!(all, ["a=1", "a=2", "b:=x\ny"], "all are kept");
    }

    #[test]
    fn content_length_covers_nuls() {
        let frame = frame(Version::V1_1, b"SEND\ncontent-length:3\n\na\0b\0");
        assert_eq!(frame.body(), b"a\0b");
    }

    #[test]
    fn line_ends_may_be_crlf() {
        for version in Version::ALL {
            let frame = frame(version, b"SEND\r\na:1\r\n\r\nx\r\n\0");
            assert_eq!(frame.header("a").unwrap(), "1");
            assert_eq!(frame.body(), b"x\r\n");
        }
    }

    #[test]
    fn line_ends_between_frames_are_heart_beats() {
        assert_eq!(
            one(Version::V1_2, b"\n\r\n\nSEND"),
            Ok(Decoded::HeartBeats(4))
        );
        assert_eq!(one(Version::V1_2, b"\r"), Ok(Decoded::Incomplete));
    }

    #[test]
    fn escapes_are_those_of_the_version() {
        let input = b"SEND\na:x\\ry\n\n\0";
        assert_eq!(one(Version::V1_1, input), Err(DecodeError::UndefinedEscape));
        assert_eq!(frame(Version::V1_2, input).header("a").unwrap(), "x\ry");
        assert_eq!(frame(Version::V1_0, input).header("a").unwrap(), "x\\ry");
        let login = b"CONNECT\npasscode:a\\tb:c\n\n\0";
        let login = frame(Version::V1_2, login);
        assert_eq!(login.header("passcode").unwrap(), "a\\tb:c");
    }

    #[test]
    fn spaces_are_trimmed_in_1_0_only() {
        let input = b"SEND\na: x \n\n\0";
        assert_eq!(frame(Version::V1_0, input).header("a").unwrap(), "x");
        assert_eq!(frame(Version::V1_1, input).header("a").unwrap(), " x ");
    }

    #[test]
    fn hostile_lengths_are_refused_at_the_head() {
        for (value, error) in [
            ("-1", DecodeError::ContentLength),
            ("abc", DecodeError::ContentLength),
            ("", DecodeError::ContentLength),
            ("+5", DecodeError::ContentLength),
            ("18446744073709551617", DecodeError::ContentLength),
            (
                "18446744073709551615",
                DecodeError::FrameTooLarge { max: 200 },
            ),
            ("10737418240", DecodeError::FrameTooLarge { max: 200 }),
        ] {
            let input = format!("SEND\ncontent-length:{value}\n\n");
            assert_eq!(one(Version::V1_2, input.as_bytes()), Err(error), "{value}");
        }
        assert_eq!(
            one(Version::V1_2, b"SEND\ncontent-length:1\n\nabc\0"),
            Err(DecodeError::ContentLengthMismatch)
        );
    }

    #[test]
    fn every_bound_is_kept() {
        let long = "x".repeat(41);
        let many = "SEND\n".to_owned() + &"a:1\n".repeat(5);
        let wide = "SEND\n".to_owned() + &format!("a:{}\n", "x".repeat(30)).repeat(3);
        let large = "SEND\n\n".to_owned() + &"x".repeat(200);
        for (input, error) in [
            (long, DecodeError::LineTooLong { max: 40 }),
            (many, DecodeError::TooManyHeaders { max: 4 }),
            (wide + "b:1234567", DecodeError::HeadTooLong { max: 100 }),
            (large, DecodeError::FrameTooLarge { max: 200 }),
        ] {
            assert_eq!(one(Version::V1_2, input.as_bytes()), Err(error));
            assert_eq!(error.cause(), Cause::TooLarge);
        }
    }

    #[test]
    fn malformed_heads_are_refused() {
        for (input, error) in [
            (&b"SEND\nx\n\n\0"[..], DecodeError::Header),
            (b"SEND\n:x\n\n\0", DecodeError::Header),
            (b"SEND\na:1\0", DecodeError::NulInHead),
            (b"\x10\x0c\x00\x04MQTT", DecodeError::NulInHead),
            (b"SEND\na:1\r2\n\n\0", DecodeError::CarriageReturn),
            (b"SEND\na:\xff\n\n\0", DecodeError::NotUtf8),
        ] {
            assert_eq!(one(Version::V1_2, input), Err(error));
        }
    }

    #[test]
    fn each_byte_is_scanned_once() {
        let mut decoder = Decoder::with_version(Version::V1_2);
        let input = b"SEND\na:1\n\nhello\0";
        for end in 1..input.len() {
            assert_eq!(
                decoder.decode(&input[..end], &bounds()),
                Ok(Decoded::Incomplete)
            );
            assert_eq!(decoder.scan.at, end, "nothing is left to look at again");
        }
        assert!(matches!(
            decoder.decode(input, &bounds()),
            Ok(Decoded::Frame(_))
        ));
    }

    proptest! {
        #[test]
        fn one_pass_finds_what_the_scan_finds(
            lines in proptest::collection::vec("[a-c:\\\\n \r\\x00ä]{0,9}|content-length:[0-9]", 0..6),
            body in "[x\\x00]{0,4}",
            version in proptest::sample::select(&Version::ALL[..]),
        ) {
            let input = format!("SEND\n{}\n\n{body}\0y", lines.join("\n"));
            let input = input.as_bytes();
            let mut scanning = Decoder::with_version(version);
            // Behind the first byte there is only the scan.
            prop_assert_eq!(scanning.decode(&input[..1], &bounds()), Ok(Decoded::Incomplete));
            prop_assert_eq!(one(version, input), scanning.decode(input, &bounds()));
        }
    }

    #[test]
    fn the_receipt_of_a_bad_frame_is_found() {
        let input = b"SEND\na:\\t\nreceipt:7\r\n\n\0";
        assert_eq!(receipt_of(input, &bounds()), Some("7"));
        assert_eq!(receipt_of(b"SEND\nreceipt:7", &bounds()), None);
    }
}
