use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::*;

const LIMIT: Option<Duration> = Some(Duration::from_secs(60));
const FINE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn request(port: u16, mut action: Value) -> Request {
    action["port"] = json!(port);
    let action: core::HTTPGetAction = serde_json::from_value(action).unwrap();
    Request::of(&action, &core::Container::default(), "127.0.0.1", "kube-probe").unwrap()
}

type Answers = Arc<dyn Fn(&str) -> String + Send + Sync>;

/// Reads one request and answers by its path.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, answers: Answers) -> String {
    let mut got = Vec::new();
    while !got.ends_with(b"\r\n\r\n") {
        let mut piece = [0; 1024];
        match stream.read(&mut piece).await {
            Ok(count) if count > 0 => got.extend_from_slice(&piece[..count]),
            _ => return String::new(),
        }
    }
    let got = String::from_utf8(got).unwrap();
    let answer = answers(got.split(' ').nth(1).unwrap());
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
    got
}

struct Server {
    port: u16,
    asked: mpsc::UnboundedReceiver<String>,
}

/// Serves one request after the other, each on a connection of its own.
async fn server(answers: impl Fn(&str) -> String + Send + Sync + 'static, tls: Option<rustls::ServerConfig>) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (sender, asked) = mpsc::unbounded_channel();
    let (answers, tls): (Answers, _) = (Arc::new(answers), tls.map(Arc::new));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let got = match &tls {
                None => serve(stream, answers.clone()).await,
                Some(config) => match tokio_rustls::TlsAcceptor::from(config.clone()).accept(stream).await {
                    Ok(stream) => serve(stream, answers.clone()).await,
                    Err(_) => continue,
                },
            };
            let _ = sender.send(got);
        }
    });
    Server { port, asked }
}

fn answer(status: u16, body: &str) -> Answer {
    Answer {
        status,
        body: body.to_owned(),
    }
}

#[tokio::test]
async fn a_request_says_what_the_probe_says() {
    let mut server = server(|_| FINE.to_owned(), None).await;
    let plain = request(server.port, json!({}));
    assert_eq!(get(plain, LIMIT).await, Ok(answer(200, "ok")));
    let got = server.asked.recv().await.unwrap().to_lowercase();
    assert!(got.starts_with("get / http/1.1\r\n"), "{got}");
    for line in [
        format!("host: 127.0.0.1:{}", server.port),
        "user-agent: kube-probe/1.36".into(),
        "accept: */*".into(),
        "connection: close".into(),
    ] {
        assert!(got.contains(&format!("{line}\r\n")), "{line} in {got}");
    }

    let headers = json!([{"name": "Host", "value": "shop"}, {"name": "X-A", "value": "1"}, {"name": "x-a", "value": "2"},
        {"name": "Accept", "value": ""}, {"name": "User-Agent", "value": "me"}]);
    let own = request(server.port, json!({"path": "well?deep=1 2#x", "httpHeaders": headers}));
    assert_eq!(get(own, LIMIT).await, Ok(answer(200, "ok")));
    let got = server.asked.recv().await.unwrap().to_lowercase();
    assert!(got.starts_with("get /well?deep=1%202 http/1.1\r\n"), "{got}");
    for line in ["host: shop", "x-a: 1", "x-a: 2", "user-agent: me"] {
        assert!(got.contains(&format!("{line}\r\n")), "{line} in {got}");
    }
    assert!(!got.contains("accept"), "{got}");
}

#[tokio::test]
async fn redirects_are_followed_on_the_same_host_only() {
    let moved = |place: &str| format!("HTTP/1.1 302 Found\r\nLocation: {place}\r\nContent-Length: 2\r\n\r\nno");
    let answers = move |path: &str| match path {
        "/a/b" => moved("c"),
        "/a/c" => moved("/d"),
        "/away" => moved("http://192.0.2.1/"),
        "/round" => moved("/round"),
        "/lost" => "HTTP/1.1 301 Moved\r\nContent-Length: 0\r\n\r\n".to_owned(),
        _ => FINE.to_owned(),
    };
    let server = server(answers, None).await;
    let ask = |path: &str| get(request(server.port, json!({"path": path})), LIMIT);
    assert_eq!(ask("/a/b").await, Ok(answer(200, "ok")));
    assert_eq!(ask("/away").await, Ok(answer(302, "no")));
    assert_eq!(ask("/lost").await, Ok(answer(301, "")));
    let round = ask("/round").await.unwrap_err();
    assert!(round.ends_with("stopped after 10 redirects"), "{round}");
}

#[test]
fn a_redirect_may_change_port_and_scheme() {
    let first = request(
        8080,
        json!({"path": "/x", "httpHeaders": [{"name": "Host", "value": "shop"}]}),
    );
    let next = first.redirected("https://127.0.0.1:8443/y?z").unwrap();
    assert_eq!(next.url(), "https://127.0.0.1:8443/y?z");
    assert!(!next.headers.contains_key(HOST));
    assert_eq!(first.redirected("//127.0.0.1").unwrap().url(), "http://127.0.0.1:80/");
    assert_eq!(first.redirected("https://other/"), None);
    assert!(first.redirected("/z").unwrap().headers.contains_key(HOST));
}

#[tokio::test]
async fn what_is_wrong_is_said_in_gos_words() {
    let server = server(
        |path| match path {
            "/empty" => String::new(),
            "/nonsense" => "nonsense\r\n\r\n".to_owned(),
            _ => "HTTP/1.1 503 No\r\nContent-Length: 99\r\n\r\nshort".to_owned(),
        },
        None,
    )
    .await;
    let port = server.port;
    let ask = |action: Value, port: u16| get(request(port, action), LIMIT);
    assert_eq!(ask(json!({}), port).await, Ok(answer(503, "short")));
    assert_eq!(
        ask(json!({"path": "/empty"}), port).await,
        Err(format!("Get \"http://127.0.0.1:{port}/empty\": EOF"))
    );
    assert!(ask(json!({"path": "/nonsense"}), port).await.is_err());
    let plain = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let plain_port = plain.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = plain.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        let _ = stream.read(&mut [0; 2048]).await;
    });
    assert_eq!(
        ask(json!({"scheme": "HTTPS"}), plain_port).await,
        Err(format!(
            "Get \"https://127.0.0.1:{plain_port}/\": http: server gave HTTP response to HTTPS client"
        ))
    );
    // taken, so that nobody else listens there, but not listened at
    let taken = tokio::net::TcpSocket::new_v4().unwrap();
    taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let closed = taken.local_addr().unwrap().port();
    assert_eq!(
        ask(json!({}), closed).await,
        Err(format!(
            "Get \"http://127.0.0.1:{closed}/\": dial tcp 127.0.0.1:{closed}: connect: connection refused"
        ))
    );
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_port = silent.local_addr().unwrap().port();
    let late = get(request(silent_port, json!({})), Some(Duration::from_secs(1))).await;
    assert_eq!(
        late,
        Err(format!(
            "Get \"http://127.0.0.1:{silent_port}/\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
        ))
    );
}

#[tokio::test]
async fn certificates_are_not_looked_at() {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["somebody".to_owned()])
        .unwrap()
        .self_signed(&key)
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .unwrap();
    let server = server(|_| FINE.to_owned(), Some(config)).await;
    let ask = request(server.port, json!({"scheme": "HTTPS"}));
    assert_eq!(get(ask, LIMIT).await, Ok(answer(200, "ok")));
}

#[tokio::test]
async fn only_the_beginning_of_an_answer_is_read() {
    let long = "x".repeat(100_000);
    let server = server(
        move |_| format!("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{long}"),
        None,
    )
    .await;
    let got = get(request(server.port, json!({})), LIMIT).await.unwrap();
    assert_eq!((got.status, got.body.len()), (200, LONGEST_BODY));
}
