//! The body of a request as it comes from its client, over any version of HTTP.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::http3::upload::{self, BrokenUpload};

/// What the client sends.
#[derive(Debug)]
pub enum ClientBody {
    /// Over HTTP/1.1 or HTTP/2.
    Hyper(Incoming),
    /// Over HTTP/3.
    Http3(Box<upload::Upload>),
}

/// Why it ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum BrokenBody {
    /// Over HTTP/1.1 or HTTP/2.
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
    /// Over HTTP/3.
    #[error(transparent)]
    Http3(#[from] BrokenUpload),
}

impl From<Incoming> for ClientBody {
    fn from(body: Incoming) -> Self {
        Self::Hyper(body)
    }
}

impl From<upload::Upload> for ClientBody {
    fn from(body: upload::Upload) -> Self {
        Self::Http3(Box::new(body))
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BrokenBody;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        match &mut *self {
            Self::Hyper(body) => Pin::new(body).poll_frame(cx).map_err(BrokenBody::Hyper),
            Self::Http3(body) => Pin::new(&mut **body).poll_frame(cx).map_err(BrokenBody::Http3),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Hyper(body) => body.is_end_stream(),
            Self::Http3(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Hyper(body) => body.size_hint(),
            Self::Http3(body) => body.size_hint(),
        }
    }
}
