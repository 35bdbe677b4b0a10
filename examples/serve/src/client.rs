//! The least of an HTTP client, for tests and load: one request a connection, whole answers or events as they come.

use std::io;
use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Headers as they came.
    pub headers: Vec<String>,
    /// Body.
    pub body: String,
}

impl Answer {
    /// The body as JSON, null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// A request that has been sent.
#[derive(Debug)]
pub struct Open {
    connection: BufReader<TcpStream>,
    /// Status code of the answer.
    pub status: u16,
    /// Headers of the answer.
    pub headers: Vec<String>,
}

/// Sends `GET path`.
///
/// # Errors
/// Of the connection.
pub async fn get(address: SocketAddr, path: &str) -> io::Result<Answer> {
    open(address, "GET", path, b"").await?.whole().await
}

/// Sends `POST path` with a JSON body.
///
/// # Errors
/// Of the connection.
pub async fn post(address: SocketAddr, path: &str, body: &Value) -> io::Result<Answer> {
    open(address, "POST", path, body.to_string().as_bytes())
        .await?
        .whole()
        .await
}

/// Sends a request and reads the head of the answer.
///
/// # Errors
/// Of the connection, or when the answer is not HTTP.
pub async fn open(address: SocketAddr, method: &str, path: &str, body: &[u8]) -> io::Result<Open> {
    let mut connection = TcpStream::connect(address).await?;
    // Of HTTP/1.0 an answer is what comes until the connection ends.
    let head = format!(
        "{method} {path} HTTP/1.0\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    connection.write_all(head.as_bytes()).await?;
    // A server may refuse a body before it has read all of it.
    let sent = connection.write_all(body).await;
    let mut connection = BufReader::new(connection);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if connection.read_line(&mut line).await? == 0 {
            sent?;
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let status = lines[0].split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok(Open {
        connection,
        status: status.ok_or(io::ErrorKind::InvalidData)?,
        headers: lines.split_off(1),
    })
}

impl Open {
    /// Reads the answer to its end.
    ///
    /// # Errors
    /// Of the connection.
    pub async fn whole(mut self) -> io::Result<Answer> {
        let mut body = String::new();
        self.connection.read_to_string(&mut body).await?;
        Ok(Answer {
            status: self.status,
            headers: self.headers,
            body,
        })
    }

    /// Data of the next server-sent event; `None` at the end.
    ///
    /// # Errors
    /// Of the connection.
    pub async fn event(&mut self) -> io::Result<Option<String>> {
        loop {
            let mut line = String::new();
            if self.connection.read_line(&mut line).await? == 0 {
                return Ok(None);
            }
            if let Some(data) = line.strip_prefix("data: ") {
                return Ok(Some(data.trim_end().to_owned()));
            }
        }
    }
}
