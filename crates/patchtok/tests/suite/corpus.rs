//! Reading documents from files and folders.

use std::fs;
use std::io::Write;
use std::path::Path;

use crate::common::write_parquet;
use flate2::Compression;
use flate2::write::GzEncoder;
use patchtok::{Corpus, Error};

fn read(corpus: &Corpus) -> Vec<String> {
    corpus.documents().map(Result::unwrap).collect()
}

fn first_error(corpus: &Corpus) -> Error {
    let mut documents = corpus.documents().skip_while(Result::is_ok);
    let error = documents.next().unwrap().unwrap_err();
    assert!(documents.next().is_none(), "reading goes on after an error");
    error
}

fn write_gz(path: &Path, bytes: &[u8]) {
    let mut gz = GzEncoder::new(fs::File::create(path).unwrap(), Compression::default());
    gz.write_all(bytes).unwrap();
    gz.finish().unwrap();
}

#[test]
fn a_folder_is_read_in_the_order_of_names() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::create_dir(path("b")).unwrap();
    fs::write(path("b/2.md"), "two").unwrap();
    fs::write(path("b/1.rst"), "one").unwrap();
    fs::write(path("a.txt"), "zero").unwrap();
    fs::write(
        path("c.jsonl"),
        "{\"text\": \"three\"}\n\n{\"text\": \"\"}\n{\"id\": 1, \"text\": \"four\"}",
    )
    .unwrap();
    write_gz(&path("d.TXT.gz"), b"five");
    write_gz(&path("e.jsonl.gz"), b"{\"text\": \"six\"}\r\n");
    fs::write(path("f.txt.zst"), zstd::encode_all(&b"seven"[..], 1).unwrap()).unwrap();
    write_parquet(&path("g.parquet"), "text", &[Some(b"eight"), Some(b"")]);
    fs::write(path("picture.png"), [0xff, 0xd8]).unwrap();
    let corpus = Corpus::open(folder.path()).unwrap();
    let expected = [
        "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "eight",
    ];
    assert_eq!(read(&corpus), expected);
    assert_eq!(read(&corpus), expected, "a corpus can be read again");
    let corpus = Corpus::open_all([path("b/2.md"), path("a.txt")]).unwrap();
    assert_eq!(read(&corpus), ["two", "zero"]);
}

#[test]
fn the_text_field_can_be_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.jsonl");
    fs::write(&path, "{\"body\": \"hi\", \"text\": 1}\n").unwrap();
    assert_eq!(read(&Corpus::open(&path).unwrap().text_field("body")), ["hi"]);
    let error = first_error(&Corpus::open(&path).unwrap());
    assert!(matches!(error, Error::BadLine { line: 1, .. }), "{error}");
}

#[test]
fn a_file_that_is_named_is_read_whatever_its_ending() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("README");
    fs::write(&path, "read me").unwrap();
    assert_eq!(read(&Corpus::open(&path).unwrap()), ["read me"]);
}

#[test]
fn errors_name_the_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);

    fs::write(path("bad.txt"), b"good\xffbad").unwrap();
    let error = first_error(&Corpus::open(path("bad.txt")).unwrap());
    assert!(matches!(error, Error::NotUtf8 { offset: 4, .. }), "{error}");

    fs::write(path("bad.jsonl"), b"{\"text\": \"good\"}\n{\"text\": \"\xc3\"}\n").unwrap();
    let error = first_error(&Corpus::open(path("bad.jsonl")).unwrap());
    assert!(matches!(error, Error::NotUtf8 { offset: 27, .. }), "{error}");

    for (name, line) in [
        ("cut.jsonl", "{\"text\": "),
        ("list.jsonl", "[1]"),
        ("none.jsonl", "{\"body\": \"x\"}"),
    ] {
        fs::write(path(name), format!("{{\"text\": \"good\"}}\n{line}\n")).unwrap();
        let error = first_error(&Corpus::open(path(name)).unwrap());
        assert!(matches!(error, Error::BadLine { line: 2, .. }), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }

    fs::write(path("cut.txt.gz"), b"\x1f\x8b\x08").unwrap();
    let error = first_error(&Corpus::open(path("cut.txt.gz")).unwrap());
    assert!(matches!(error, Error::Io { .. }), "{error}");
}

#[test]
fn a_column_of_a_parquet_file_is_read_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    let rows: Vec<String> = (0..500).map(|i| format!("row {i}")).collect();
    let rows: Vec<Option<&[u8]>> = rows.iter().map(|row| Some(row.as_bytes())).collect();
    write_parquet(&path, "body", &rows);
    let corpus = Corpus::open(&path).unwrap().text_field("body");
    let read = read(&corpus);
    assert_eq!(
        (read.len(), read[7].as_str(), read[999].as_str()),
        (1000, "row 7", "row 499")
    );
    for (name, message) in [("text", "no column \"text\", only id, body"), ("id", "is INT64")] {
        let error = first_error(&Corpus::open(&path).unwrap().text_field(name));
        assert!(error.to_string().contains(message), "{error}");
    }
    write_parquet(&path, "text", &[Some(b"good"), None, Some(b"\xff"), Some(b"good")]);
    let error = first_error(&Corpus::open(&path).unwrap());
    assert!(matches!(error, Error::BadLine { line: 2, .. }), "{error}");
    let corpus = Corpus::open(&path).unwrap().skip_bad(true);
    let mut documents = corpus.documents();
    assert!(documents.by_ref().all(|document| document.unwrap() == "good"));
    assert_eq!((documents.rejected().no_text, documents.rejected().not_utf8), (2, 2));
}

#[test]
fn patterns_are_matched_unless_a_file_is_called_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for (name, text) in [("b1.txt", "1"), ("b2.txt", "2"), ("c.txt", "c")] {
        fs::write(path(name), text).unwrap();
    }
    assert_eq!(read(&Corpus::open(path("b*.txt")).unwrap()), ["1", "2"]);
    assert_eq!(read(&Corpus::open(path("[bc]?.txt")).unwrap()), ["1", "2"]);
    fs::write(path("[bc]?.txt"), "itself").unwrap();
    assert_eq!(read(&Corpus::open(path("[bc]?.txt")).unwrap()), ["itself"]);
    let error = Corpus::open(path("d*")).unwrap_err();
    assert!(error.to_string().contains("no file matches"), "{error}");
}

#[test]
fn a_long_text_is_cut_at_line_ends() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.txt");
    let lines: String = (0..200_000).map(|i| format!("line number {i}\n")).collect();
    fs::write(&path, &lines).unwrap();
    let documents = read(&Corpus::open(&path).unwrap());
    assert_eq!(documents.concat(), lines);
    assert_eq!(documents.len(), lines.len().div_ceil((1 << 20) + 20));
    assert!(documents.iter().all(|document| document.ends_with('\n')));
    // Without line ends, at the end of a character.
    let text = format!("x{}", "é".repeat(3 << 20));
    fs::write(&path, &text).unwrap();
    let documents = read(&Corpus::open(&path).unwrap());
    assert_eq!(documents.concat(), text);
    assert!(documents.len() >= 2, "{}", documents.len());
}

#[test]
fn shards_are_disjoint_and_complete() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let lines: String = (0..50).map(|i| format!("{{\"text\": \"line {i}\"}}\n")).collect();
    fs::write(path("a.jsonl"), lines).unwrap();
    for i in 0..5 {
        fs::write(path(&format!("b{i}.txt")), format!("file {i}")).unwrap();
    }
    write_parquet(&path("c.parquet"), "text", &[Some(b"row 0"), Some(b"row 1")]);
    let open = || Corpus::open(folder.path()).unwrap();
    let mut all = read(&open());
    let parts: Vec<_> = (0..4).map(|i| read(&open().shard(i, 4).unwrap())).collect();
    assert!(parts.iter().all(|part| part.len() > 10), "{parts:?}");
    let mut together = parts.concat();
    all.sort();
    together.sort();
    assert_eq!(all, together);
    assert!(open().shard(4, 4).is_err());
}

#[test]
fn nothing_to_read_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("picture.png"), "x").unwrap();
    let error = Corpus::open(folder.path()).unwrap_err();
    assert!(matches!(error, Error::EmptyCorpus(_)), "{error}");
    assert!(Corpus::open_all(Vec::<&str>::new()).is_err());
    let error = Corpus::open("no/such/file").unwrap_err();
    assert!(error.to_string().contains("no/such/file"), "{error}");
}

#[test]
fn a_split_holds_out_a_tenth_by_text() {
    let texts: Vec<String> = (0..2000).map(|i| format!("document {i}")).collect();
    let (learn, measure) = Corpus::from_texts(texts.clone()).split();
    let (learnt, measured) = (read(&learn), read(&measure));
    assert_eq!(learnt.len() + measured.len(), 2000);
    assert!((150..250).contains(&measured.len()), "{}", measured.len());
    // The same texts in another order, and twice, fall on the same side.
    let twice: Vec<String> = texts.iter().rev().chain(&texts).cloned().collect();
    let (_, again) = Corpus::from_texts(twice).split();
    assert_eq!(read(&again).len(), 2 * measured.len());
    // A part can be split again.
    let (inner, outer) = learn.split();
    assert!(read(&outer).len() > 100 && read(&inner).len() + read(&outer).len() == learnt.len());
}
