//! What a message carries, as the fields of a frame: the same in `publish` and in `message`.

use std::borrow::Cow;
use std::time::Duration;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::error::{ErrorCode, FrameError};
use super::fields::{Fields, Name, STRING_BYTES, as_portable, check_portable, must_be};
use super::scan::{self, Kind, Value};
use super::write::Object;
use crate::model::Timestamp;

/// The standard alphabet; padding is written but not asked for.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Name and value of a header.
pub type Header<'a> = (Cow<'a, str>, Cow<'a, str>);

/// A payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data<'a> {
    /// A JSON value, as its text (`dataType` `json`).
    Json(Cow<'a, str>),
    /// Text (`dataType` `text`).
    Text(Cow<'a, str>),
    /// Any bytes (`dataType` `base64`).
    Binary(Cow<'a, [u8]>),
}

/// When a message stops being of interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// A time from now (`expiresIn`, seconds).
    In(Duration),
    /// At a moment (`expiresAt`, milliseconds since the Unix epoch).
    At(Timestamp),
}

/// Payload and properties of a message.
#[allow(
    clippy::struct_field_names,
    reason = "the content type is called so everywhere"
)]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content<'a> {
    /// The payload.
    pub data: Data<'a>,
    /// MIME type of the payload.
    pub content_type: Option<Cow<'a, str>>,
    /// Ties an answer to its request. Text (`correlationId`) or, if it is not UTF-8 or contains NUL,
    /// bytes (`correlationIdBase64`).
    pub correlation: Option<Cow<'a, [u8]>>,
    /// Topic for the answer.
    pub reply_to: Option<Cow<'a, str>>,
    /// Headers, repeats kept.
    pub headers: Vec<Header<'a>>,
    /// When it ends.
    pub expiry: Option<Expiry>,
}

/// No payload is an empty text.
impl Default for Data<'_> {
    fn default() -> Self {
        Self::Text(Cow::Borrowed(""))
    }
}

impl Data<'_> {
    /// The bytes that every protocol sees.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Json(text) | Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }

    fn write(&self, object: &mut Object) {
        match self {
            Self::Json(json) => object.raw("dataType", "\"json\"").raw("data", json),
            Self::Text(text) => object.raw("dataType", "\"text\"").string("data", text),
            Self::Binary(bytes) => object
                .raw("dataType", "\"base64\"")
                .string("data", &BASE64.encode(bytes)),
        };
    }
}

impl<'a> From<Data<'a>> for Content<'a> {
    fn from(data: Data<'a>) -> Self {
        Self {
            data,
            content_type: None,
            correlation: None,
            reply_to: None,
            headers: Vec::new(),
            expiry: None,
        }
    }
}

impl<'a> Content<'a> {
    /// Reads it from a frame with at most `max_headers` headers.
    pub(super) fn read(fields: &Fields<'a>, max_headers: usize) -> Result<Self, FrameError> {
        Ok(Self {
            data: read_data(fields)?,
            content_type: fields.portable(Name::ContentType)?,
            correlation: read_correlation(fields)?,
            reply_to: fields.portable(Name::ReplyTo)?,
            headers: match fields.value(Name::Headers) {
                Some(value) => read_headers(value, max_headers)?,
                None => Vec::new(),
            },
            expiry: read_expiry(fields)?,
        })
    }

    /// Writes the fields that [`Content::read`] reads.
    pub(super) fn write(&self, object: &mut Object) {
        self.data.write(object);
        object.maybe("contentType", self.content_type.as_deref());
        if let Some(correlation) = &self.correlation {
            match std::str::from_utf8(correlation) {
                Ok(text) if !text.contains('\0') => object.string("correlationId", text),
                _ => object.string("correlationIdBase64", &BASE64.encode(correlation)),
            };
        }
        object.maybe("replyTo", self.reply_to.as_deref());
        object.headers(&self.headers);
        match self.expiry {
            None => {}
            Some(Expiry::In(span)) => {
                object.plain("expiresIn", span.as_secs_f64());
            }
            Some(Expiry::At(at)) => {
                object.plain("expiresAt", at.0);
            }
        }
    }
}

/// Without `dataType` a string is text and everything else is JSON: what is typed by hand means
/// what it looks like, and a thermometer's reader gets `21.5`, not `"21.5"`.
fn read_data<'a>(fields: &Fields<'a>) -> Result<Data<'a>, FrameError> {
    let value = fields.any(Name::Data);
    let data_type = fields.string(Name::DataType)?;
    let text = |value: Option<Value<'a>>| match value {
        None => Ok(Cow::Borrowed("")),
        Some(value) if matches!(value.kind, Kind::String { .. }) => Ok(value.string()),
        Some(_) => Err(must_be(Name::Data, "a string with this \"dataType\"")),
    };
    match (data_type.as_deref(), value) {
        (None, None) => Ok(Data::default()),
        (None, Some(value)) => Ok(match value.kind {
            Kind::String { .. } => Data::Text(value.string()),
            _ => Data::Json(Cow::Borrowed(value.raw)),
        }),
        (Some("json"), Some(value)) => Ok(Data::Json(Cow::Borrowed(value.raw))),
        (Some("json"), None) => Err(FrameError::invalid("\"data\" is missing")),
        (Some("text"), value) => Ok(Data::Text(text(value)?)),
        (Some("base64"), value) => {
            let bytes = decode(Name::Data, &text(value)?)?;
            Ok(Data::Binary(Cow::Owned(bytes)))
        }
        (Some(_), _) => Err(must_be(Name::DataType, "\"json\", \"text\" or \"base64\"")),
    }
}

fn read_correlation<'a>(fields: &Fields<'a>) -> Result<Option<Cow<'a, [u8]>>, FrameError> {
    let text = fields.portable(Name::CorrelationId)?;
    let binary = fields.string(Name::CorrelationBinary)?;
    match (text, binary) {
        (None, None) => Ok(None),
        (Some(Cow::Borrowed(text)), None) => Ok(Some(Cow::Borrowed(text.as_bytes()))),
        (Some(Cow::Owned(text)), None) => Ok(Some(Cow::Owned(text.into_bytes()))),
        (None, Some(text)) => {
            let bytes = decode(Name::CorrelationBinary, &text)?;
            if bytes.len() > STRING_BYTES {
                let detail = format!("\"correlationIdBase64\" has more than {STRING_BYTES} bytes");
                return Err(FrameError::new(ErrorCode::TooLarge, detail));
            }
            Ok(Some(Cow::Owned(bytes)))
        }
        (Some(_), Some(_)) => Err(FrameError::invalid(
            "\"correlationId\" and \"correlationIdBase64\" exclude each other",
        )),
    }
}

fn decode(name: Name, text: &str) -> Result<Vec<u8>, FrameError> {
    BASE64
        .decode(text)
        .map_err(|error| must_be(name, &format!("base64: {error}")))
}

fn read_headers<'a>(value: Value<'a>, max: usize) -> Result<Vec<Header<'a>>, FrameError> {
    const WRONG: &str = "an object of strings and arrays of strings";
    if value.kind != Kind::Object {
        return Err(must_be(Name::Headers, WRONG));
    }
    let mut headers: Vec<Header<'a>> = Vec::new();
    let mut add = |name: &Cow<'a, str>, value: Value<'a>| {
        if headers.len() == max {
            let detail = format!("more than {max} headers");
            return Err(FrameError::new(ErrorCode::TooLarge, detail));
        }
        if !matches!(value.kind, Kind::String { .. }) {
            return Err(must_be(Name::Headers, WRONG));
        }
        headers.push((name.clone(), as_portable("headers", value)?));
        Ok(())
    };
    let mut names: Vec<Cow<'a, str>> = Vec::new();
    scan::object(value.raw, usize::MAX, |name, value| {
        let name = name.string();
        check_portable("headers", &name)?;
        if names.contains(&name) {
            let detail = "a header comes twice in \"headers\": repeats are an array of strings";
            return Err(FrameError::invalid(detail));
        }
        if value.kind == Kind::Array {
            scan::array(value.raw, usize::MAX, |value| add(&name, value))?;
        } else {
            add(&name, value)?;
        }
        if names.len() == max {
            let detail = format!("more than {max} headers");
            return Err(FrameError::new(ErrorCode::TooLarge, detail));
        }
        names.push(name);
        Ok(())
    })?;
    Ok(headers)
}

fn read_expiry(fields: &Fields<'_>) -> Result<Option<Expiry>, FrameError> {
    let at = fields.whole(Name::ExpiresAt)?;
    let Some(value) = fields.value(Name::ExpiresIn) else {
        return Ok(at.map(|at| Expiry::At(Timestamp(at))));
    };
    if at.is_some() {
        let detail = "\"expiresIn\" and \"expiresAt\" exclude each other";
        return Err(FrameError::invalid(detail));
    }
    let wrong = || must_be(Name::ExpiresIn, "a number of seconds, not negative");
    let secs = value.double().ok_or_else(wrong)?;
    // Beyond some centuries it is all the same.
    let span = Duration::try_from_secs_f64(secs.min(1e11)).map_err(|_| wrong())?;
    Ok(Some(Expiry::In(span)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::{ClientFrame, client};
    use crate::limits::Limits;

    #[test]
    fn a_correlation_is_bounded_by_what_it_stands_for() {
        for (length, fits) in [(STRING_BYTES, true), (STRING_BYTES + 1, false)] {
            let mut content = Content::from(Data::Text("".into()));
            content.correlation = Some(vec![0xff; length].into());
            let frame = client::publish(None, "a", content, 0, false);
            let read = ClientFrame::parse(&frame, &Limits::default());
            assert_eq!(read.is_ok(), fits, "{length}");
        }
    }
}
