//! The server's codec: protobuf, and a refusal of a second message, which tonic's own codec would
//! let pass unseen in a unary call. What it refuses the edge says in the contract's terms, as it
//! does with what tonic refuses itself.

use std::marker::PhantomData;

use prost::Message;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Encodes a method's answers and decodes its one request.
#[derive(Debug)]
pub struct RequestCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for RequestCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for RequestCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = AnswerEncoder<T>;
    type Decoder = RequestDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        AnswerEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        RequestDecoder { decoded: false, message: PhantomData }
    }
}

/// Encodes answers.
#[derive(Debug)]
pub struct AnswerEncoder<T>(PhantomData<T>);

impl<T: Message> Encoder for AnswerEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        item.encode(buf).map_err(|error| Status::internal(error.to_string()))
    }
}

/// Decodes one request, and refuses a second.
#[derive(Debug)]
pub struct RequestDecoder<U> {
    decoded: bool,
    message: PhantomData<U>,
}

impl<U: Message + Default> Decoder for RequestDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buf: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        if self.decoded {
            return Err(Status::internal("more than one message"));
        }
        self.decoded = true;
        U::decode(buf).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}
