//! Downloads from a server of our own that misbehaves in every way it can.
#![cfg(feature = "download")]

use quarterturn_core::Error;
use quarterturn_data::download::{Downloader, Item, MNIST, MNIST_MIRRORS};
use quarterturn_data::mnist;
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// Longer than a read and than the buffers of a connection's first packets.
const LEN: usize = 300_000;
const FILE: Item = Item {
    name: "file.gz",
    bytes: LEN as u64,
    sha256: "136f334d647619879743ff33fde1ac6547f40e314692441f2a125e087cad47c9",
};

fn content() -> Vec<u8> {
    (0..LEN as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// Answers `/BEHAVIOUR/file.gz`, each connection on a thread of its own, and notes what was asked for.
struct Server {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        thread::spawn(move || {
            for connection in listener.incoming() {
                let log = log.clone();
                thread::spawn(move || {
                    // A client that hangs up in the middle is what these tests are about.
                    let _ = connection.and_then(|stream| answer(stream, &log));
                });
            }
        });
        Server { address, asked }
    }

    fn mirror(&self, behaviour: &str) -> String {
        format!("http://{}/{behaviour}", self.address)
    }

    fn downloader(&self, behaviours: &[&str]) -> Downloader {
        Downloader {
            stall_timeout: Duration::from_millis(300),
            proxy_from_environment: false,
            ..Downloader::new(behaviours.iter().map(|b| self.mirror(b)))
        }
    }
}

fn answer(mut stream: TcpStream, log: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let behaviour = path.split('/').nth(1).unwrap_or_default().to_owned();
    log.lock().unwrap().push(path.clone());
    if !path.ends_with("/file.gz") {
        return write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    let content = content();
    let head = |stream: &mut TcpStream, kind: &str, length: Option<usize>| {
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nConnection: close\r\n")?;
        if let Some(length) = length {
            write!(stream, "Content-Length: {length}\r\n")?;
        }
        write!(stream, "\r\n")
    };
    let binary = "application/octet-stream";
    let page = b"<!DOCTYPE html><html><body>Please sign in to the network</body></html>";
    let stall = || thread::sleep(Duration::from_secs(5));
    match behaviour.as_str() {
        "good" => {
            head(&mut stream, binary, Some(LEN))?;
            stream.write_all(&content)
        }
        "good-without-length" => {
            head(&mut stream, binary, None)?;
            stream.write_all(&content)
        }
        "moved" => {
            let address = stream.local_addr()?;
            let to = format!("http://{address}/good/file.gz");
            write!(stream, "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        }
        "moved-in-circles" => {
            let address = stream.local_addr()?;
            let to = format!("http://{address}/moved-in-circles/file.gz");
            write!(stream, "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        }
        "truncated" => {
            head(&mut stream, binary, Some(LEN))?;
            stream.write_all(&content[..LEN / 2])
        }
        "truncated-without-length" => {
            head(&mut stream, binary, None)?;
            stream.write_all(&content[..LEN / 2])
        }
        "web-page" => {
            head(&mut stream, "text/html; charset=utf-8", Some(page.len()))?;
            stream.write_all(page)
        }
        "disguised-web-page" => {
            head(&mut stream, binary, None)?;
            stream.write_all(page)
        }
        "other-length" => {
            head(&mut stream, binary, Some(page.len()))?;
            stream.write_all(page)
        }
        "one-bit-wrong" => {
            let mut content = content;
            content[LEN / 3] ^= 4;
            head(&mut stream, binary, Some(LEN))?;
            stream.write_all(&content)
        }
        "endless" => {
            head(&mut stream, binary, None)?;
            loop {
                stream.write_all(&content)?;
            }
        }
        "stalls-before-the-answer" => {
            stall();
            Ok(())
        }
        "stalls-within-the-file" => {
            head(&mut stream, binary, Some(LEN))?;
            stream.write_all(&content[..LEN / 2])?;
            stream.flush()?;
            stall();
            Ok(())
        }
        "trickles" => {
            head(&mut stream, binary, Some(LEN))?;
            for byte in content.chunks(1) {
                stream.write_all(byte)?;
                stream.flush()?;
                thread::sleep(Duration::from_millis(50));
            }
            Ok(())
        }
        "nonsense" => stream.write_all(b"\x15\x03\x01\x00\x02\x02\x50 this is no HTTP\r\n\r\n"),
        "hangs-up" => Ok(()),
        _ => write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
    }
}

/// A folder that does not exist yet, and is removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("quarterturn-download-{}-{number}", std::process::id());
        Folder(std::env::temp_dir().join(name))
    }

    fn names(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(&self.0) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_good_mirror_delivers_and_progress_is_told() {
    let server = Server::start();
    for behaviour in ["good", "good-without-length", "moved"] {
        let folder = Folder::new();
        let mut seen = Vec::new();
        let downloader = server.downloader(&[behaviour]);
        let below = folder.0.join("made/on/the/way");
        let path = downloader
            .fetch(&FILE, &below, &mut |progress| {
                assert_eq!((progress.file, progress.total), ("file.gz", LEN as u64));
                assert_eq!(progress.mirror, server.mirror(behaviour));
                seen.push(progress.received);
            })
            .unwrap();
        assert_eq!(path, below.join("file.gz"));
        assert_eq!(fs::read(&path).unwrap(), content());
        assert_eq!((seen.first(), seen.last()), (Some(&0), Some(&(LEN as u64))));
        assert!(seen.is_sorted());
        assert_eq!(fs::read_dir(&below).unwrap().count(), 1, "something else was left in the folder");
    }
}

#[test]
fn every_failure_leads_to_the_next_mirror_and_none_leaves_a_trace() {
    for (behaviour, reason) in [
        ("gone", "404 Not Found"),
        ("truncated", "broke off after 150000 of 300000 bytes"),
        ("truncated-without-length", "broke off after 150000 of 300000 bytes"),
        ("web-page", "a web page instead of the file"),
        ("disguised-web-page", "broke off after 70 of 300000 bytes"),
        ("other-length", "70 bytes are announced, the file has 300000"),
        ("one-bit-wrong", "the SHA-256 is "),
        ("endless", "more than the 300000 bytes of the file arrived"),
        ("stalls-before-the-answer", "stalled: nothing arrived for 300ms"),
        ("stalls-within-the-file", "stalled: nothing arrived for 300ms"),
        ("moved-in-circles", "redirect"),
        ("nonsense", "protocol"),
        ("hangs-up", "disconnected"),
    ] {
        let server = Server::start();
        let folder = Folder::new();
        let start = Instant::now();
        match server.downloader(&[behaviour]).fetch(&FILE, &folder.0, &mut |_| ()) {
            Err(Error::Download(message)) => {
                let wanted = format!("file.gz: {}: ", server.mirror(behaviour));
                assert!(message.starts_with(&wanted) && message.contains(reason), "{behaviour}: {message}");
            }
            other => panic!("{behaviour}: {other:?}"),
        }
        assert!(start.elapsed() < Duration::from_secs(4), "{behaviour} took {:?}", start.elapsed());
        assert_eq!(folder.names(), [""; 0], "{behaviour}");

        let path = server.downloader(&[behaviour, "good"]).fetch(&FILE, &folder.0, &mut |_| ()).unwrap();
        assert_eq!(fs::read(path).unwrap(), content());
        assert_eq!(folder.names(), ["file.gz"], "{behaviour}");
    }
}

#[test]
fn a_mirror_that_trickles_is_left_when_its_time_is_over() {
    let server = Server::start();
    let folder = Folder::new();
    let mut downloader = server.downloader(&["trickles"]);
    downloader.total_timeout = Duration::from_millis(500);
    let error = downloader.fetch(&FILE, &folder.0, &mut |_| ()).unwrap_err();
    assert!(error.to_string().contains("not complete within 500ms"), "{error}");
    assert!(folder.names().is_empty());
}

#[test]
fn a_server_that_does_not_speak_tls_is_an_error() {
    let server = Server::start();
    let folder = Folder::new();
    let mut downloader = server.downloader(&[]);
    downloader.mirrors.push(format!("https://{}/good", server.address));
    assert!(matches!(downloader.fetch(&FILE, &folder.0, &mut |_| ()), Err(Error::Download(_))));
}

#[test]
fn mirrors_are_tried_in_order_until_one_delivers() {
    let server = Server::start();
    let folder = Folder::new();
    let mirrors = ["truncated", "web-page", "good", "one-bit-wrong"];
    server.downloader(&mirrors).fetch(&FILE, &folder.0, &mut |_| ()).unwrap();
    let asked = server.asked.lock().unwrap().clone();
    assert_eq!(asked, ["/truncated/file.gz", "/web-page/file.gz", "/good/file.gz"]);
}

#[test]
fn when_all_mirrors_fail_each_reason_is_told() {
    let server = Server::start();
    let folder = Folder::new();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap(); // closed again at once
    let mut downloader = server.downloader(&["gone", "truncated"]);
    downloader.mirrors.push(format!("http://{closed}"));
    downloader.mirrors.push("no address at all".into());
    let message = downloader.fetch(&FILE, &folder.0, &mut |_| ()).unwrap_err().to_string();
    for mirror in &downloader.mirrors {
        assert!(message.contains(&format!("{mirror}: ")), "{message}");
    }
    let none = server.downloader(&[]).fetch(&FILE, &folder.0, &mut |_| ()).unwrap_err().to_string();
    assert_eq!(none, "download: file.gz: there are no mirrors to try");
}

#[test]
fn an_intact_file_is_kept_and_a_damaged_one_replaced() {
    let server = Server::start();
    let folder = Folder::new();
    fs::create_dir_all(&folder.0).unwrap();
    let path = folder.0.join("file.gz");
    let mut damaged = content();
    damaged[7] ^= 1;
    for (there, asked) in [(content(), 0), (damaged, 1), (b"short".to_vec(), 2)] {
        fs::write(&path, &there).unwrap();
        server.downloader(&["good"]).fetch(&FILE, &folder.0, &mut |_| ()).unwrap();
        assert_eq!(fs::read(&path).unwrap(), content());
        assert_eq!(server.asked.lock().unwrap().len(), asked);
    }
    // A failed download leaves what was there.
    fs::write(&path, b"something").unwrap();
    server.downloader(&["truncated"]).fetch(&FILE, &folder.0, &mut |_| ()).unwrap_err();
    assert_eq!(fs::read(&path).unwrap(), b"something");
    assert_eq!(folder.names(), ["file.gz"]);
}

#[test]
fn a_place_that_cannot_be_written_is_an_io_error_and_no_other_mirror_is_asked() {
    let server = Server::start();
    let folder = Folder::new();
    fs::create_dir_all(&folder.0).unwrap();
    let file = folder.0.join("a file");
    fs::write(&file, b"").unwrap();
    let result = server.downloader(&["good", "good"]).fetch(&FILE, &file, &mut |_| ());
    assert!(matches!(&result, Err(Error::Io { path, .. }) if path.starts_with(&file)), "{result:?}");
    // A folder stands where the file should be: it arrives, but cannot be put in its place.
    fs::create_dir_all(folder.0.join("file.gz/occupied")).unwrap();
    let result = server.downloader(&["good", "good"]).fetch(&FILE, &folder.0, &mut |_| ());
    assert!(matches!(&result, Err(Error::Io { path, .. }) if path.ends_with("file.gz")), "{result:?}");
    assert_eq!(server.asked.lock().unwrap().len(), 1);
    assert_eq!(folder.names().len(), 2, "{:?}", folder.names());
}

#[test]
fn two_downloads_of_one_file_do_not_disturb_each_other() {
    let server = Server::start();
    let folder = Folder::new();
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| server.downloader(&["good"]).fetch(&FILE, &folder.0, &mut |_| ()).unwrap());
        }
    });
    assert_eq!(fs::read(folder.0.join("file.gz")).unwrap(), content());
    assert_eq!(folder.names(), ["file.gz"]);
}

#[test]
fn the_list_of_mnist_files_names_those_that_the_reader_wants() {
    assert_eq!(MNIST.map(|item| item.name.to_owned()), mnist::FILES.map(|name| format!("{name}.gz")));
    assert!(MNIST.iter().all(|i| i.sha256.len() == 64 && i.sha256.bytes().all(|b| b.is_ascii_hexdigit())));
    assert!(MNIST_MIRRORS.iter().all(|mirror| mirror.starts_with("https://")));
    assert!(!mnist::is_present(Path::new("no/such/folder")).unwrap());
}
