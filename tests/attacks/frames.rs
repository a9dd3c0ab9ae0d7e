//! Frames of HTTP/2 and calls, encoded by hand.

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const ACK: u8 = 1;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// The code of a GOAWAY for a client that costs too much.
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

/// A frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// An integer of HPACK with a prefix of seven bits.
fn put_length(block: &mut Vec<u8>, length: usize) {
    let Some(mut rest) = length.checked_sub(127) else {
        block.push(u8::try_from(length).unwrap());
        return;
    };
    block.push(127);
    while rest >= 128 {
        block.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    block.push(u8::try_from(rest).unwrap());
}

/// Headers as HPACK literals that are not indexed.
pub(crate) fn literals(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        block.push(0);
        for text in [name, value] {
            put_length(&mut block, text.len());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

/// A kind of gRPC call, encoded once.
#[derive(Clone)]
pub(crate) struct Call {
    block: Vec<u8>,
    body: Vec<u8>,
}

impl Call {
    /// A call with this `authorization` and body; the body has gRPC's prefix already.
    pub(crate) fn new(path: &str, authorization: Option<&str>, body: &[u8]) -> Self {
        Self::post(path, "application/grpc", authorization, body)
    }

    /// A POST of any content.
    pub(crate) fn post(
        path: &str,
        content_type: &str,
        authorization: Option<&str>,
        body: &[u8],
    ) -> Self {
        let mut headers = vec![
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "markread"),
            ("content-type", content_type),
            ("te", "trailers"),
        ];
        headers.extend(authorization.map(|value| ("authorization", value)));
        Self { block: literals(&headers), body: body.to_vec() }
    }

    /// HEADERS and DATA that end the request.
    pub(crate) fn complete(&self, stream: u32) -> Vec<u8> {
        let head = frame(HEADERS, END_HEADERS, stream, &self.block);
        [head, frame(DATA, END_STREAM, stream, &self.body)].concat()
    }

    /// The same frames, with more of the request to come.
    pub(crate) fn begun(&self, stream: u32) -> Vec<u8> {
        let head = frame(HEADERS, END_HEADERS, stream, &self.block);
        [head, frame(DATA, 0, stream, &self.body)].concat()
    }

    /// HEADERS only, with the request to come.
    pub(crate) fn head(&self, stream: u32) -> Vec<u8> {
        frame(HEADERS, END_HEADERS, stream, &self.block)
    }
}
