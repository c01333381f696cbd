//! A plain HTTP client, for requests that a library would not send.

use crate::support::within;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

pub(crate) struct Http {
    pub(crate) socket: BufReader<TcpStream>,
}

/// The head of a response.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
}

/// A complete response.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) head: Head,
    pub(crate) text: String,
}

/// A response that is read event by event.
pub(crate) struct Events {
    http: Http,
    pub(crate) head: Head,
    text: String,
}

impl Head {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn is_chunked(&self) -> bool {
        self.header("transfer-encoding").is_some_and(|encoding| encoding == "chunked")
    }
}

impl Response {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{self:?} is not JSON: {error}"))
    }
}

impl Http {
    pub(crate) async fn connect(port: u16) -> Self {
        let socket = TcpStream::connect(("127.0.0.1", port)).await.expect("a listener");
        socket.set_nodelay(true).expect("a socket");
        Self { socket: BufReader::new(socket) }
    }

    /// Sends a request. Given headers replace the default ones of the same name.
    pub(crate) async fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) {
        let usual = [
            ("host", "localhost:1"),
            ("content-type", "application/json"),
            ("accept", "application/json, text/event-stream"),
        ];
        let mut text = format!("{method} {path} HTTP/1.1\r\n");
        let is_given = |name: &str| headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name));
        for (name, value) in usual.iter().filter(|(name, _)| !is_given(name)).chain(headers) {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if !is_given("content-length") {
            text.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        text.push_str(body);
        within(self.socket.write_all(text.as_bytes())).await.expect("a reader");
    }

    pub(crate) async fn head(&mut self) -> Head {
        let mut line = String::new();
        within(self.socket.read_line(&mut line)).await.expect("a response");
        let status = line.split(' ').nth(1).unwrap_or_else(|| panic!("{line:?} is not a response"));
        let status = status.parse().expect("a status");
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            within(self.socket.read_line(&mut line)).await.expect("a header");
            let Some((name, value)) = line.trim_end().split_once(": ") else {
                return Head { status, headers };
            };
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
    }

    pub(crate) async fn response(&mut self) -> Response {
        let head = self.head().await;
        let mut text = String::new();
        if head.is_chunked() {
            while let Some(chunk) = self.chunk().await {
                text.push_str(&chunk);
            }
        } else if let Some(length) = head.header("content-length") {
            let mut bytes = vec![0; length.parse().expect("a length")];
            within(self.socket.read_exact(&mut bytes)).await.expect("a body");
            text = String::from_utf8(bytes).expect("text");
        }
        Response { head, text }
    }

    /// Returns the next chunk; `None` after the last, or if the connection is closed.
    pub(crate) async fn chunk(&mut self) -> Option<String> {
        let mut line = String::new();
        within(self.socket.read_line(&mut line)).await.ok()?;
        let length = usize::from_str_radix(line.trim_end(), 16).ok()?;
        let mut bytes = vec![0; length + 2];
        within(self.socket.read_exact(&mut bytes)).await.ok()?;
        bytes.truncate(length);
        (length > 0).then(|| String::from_utf8(bytes).expect("text"))
    }

    pub(crate) async fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
        self.send(method, path, headers, body).await;
        self.response().await
    }

    /// Reads the head, and returns the events that follow.
    pub(crate) async fn events(mut self) -> Events {
        let head = self.head().await;
        Events { http: self, head, text: String::new() }
    }
}

impl Events {
    /// Returns the message of the next event; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let data = event.split('\n').find_map(|line| line.strip_prefix("data: "));
                let message = data.map(|data| serde_json::from_str(data).expect("JSON"));
                self.text = rest.to_owned();
                match message {
                    Some(message) => return Some(message),
                    None => continue,
                }
            }
            self.text += &self.http.chunk().await?;
        }
    }
}
