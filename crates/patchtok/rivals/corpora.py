#!/usr/bin/env python3
"""Make the corpora on which savings and building times are measured.

Eight Debian packages become one file each, a document a line: {"id", "text"}. The first three
are what tokenizers are adapted to, the others text of other domains. `hundred-megabytes.jsonl` is
the first three and Rust sources of the crates that cargo has downloaded, up to 100 MB of text in a
random order; it is for measuring time and memory only.

    python3 crates/patchtok/rivals/corpora.py                 # writes target/corpora
    python3 crates/patchtok/rivals/corpora.py --debs FOLDER   # with packages that are there already

Needs Python 3.11 (standard library only), dpkg-deb, and apt-get where packages are not at hand.
"""

import argparse
import gzip
import json
import os
import random
import re
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "crates/bench/demo"))
import make_corpus  # noqa: E402

HUNDRED_MEGABYTES = 100_000_000
OUTSIDE_LIMIT = 2_000_000  # bytes of a text of another domain


def postgresql(root: Path) -> dict[str, str]:
    return make_corpus.manual_pages(root)


def rust(root: Path) -> dict[str, str]:
    """The books, and all pages of the standard library."""
    pages = make_corpus.rust_pages(root)
    html = root / "usr/share/doc/rust-doc/html"
    for path in html.glob("std/**/*.html"):
        name = path.relative_to(html).with_suffix("").as_posix()
        pages[name] = make_corpus.page_text(make_corpus.read_html(path), lambda tag, _: tag == "main")
    return make_corpus.usable(pages)


def rst(root: Path, pattern: str) -> dict[str, str]:
    """Sphinx sources."""
    files = [path for path in root.rglob(pattern) if "translations" not in path.parts]
    return make_corpus.usable({str(path.relative_to(root)): path.read_text("utf-8") for path in files})


def manual_pages(root: Path) -> dict[str, str]:
    """The words of pages in roff."""
    pages = {}
    for path in root.rglob("usr/share/man/**/*.gz"):
        if path.is_symlink():
            continue
        with gzip.open(path, "rt", encoding="utf-8") as file:
            text = "".join(line for line in file if not line.startswith(("'", '.\\"')))
        text = re.sub(r"^\.[A-Za-z]+ ?", "", text, flags=re.M)
        text = re.sub(r"\\f\[?[A-Z]\]?", "", text).replace("\\-", "-").replace("\\&", "")
        pages[str(path.relative_to(root))] = text
    return make_corpus.usable(pages)


def fortunes(root: Path) -> dict[str, str]:
    pages = {}
    for path in root.rglob("usr/share/games/fortunes/*"):
        if path.is_file() and not path.is_symlink() and path.suffix not in (".dat", ".u8"):
            pages[path.name] = path.read_text("utf-8", "replace").replace("\n%\n", "\n\n")
    return make_corpus.usable(pages)


ADAPTED = [
    ("postgresql-doc", "postgresql-doc-15", postgresql),
    ("rust-doc", "rust-doc", rust),
    ("linux-doc", "linux-doc-6.1", lambda root: rst(root, "_sources/**/*.rst.txt")),
]
OUTSIDE = [
    ("python-doc", "python3.11-doc", lambda root: rst(root, "*.rst.txt")),
    ("fortunes", "fortunes", fortunes),
    ("manpages-de", "manpages-de", manual_pages),
    ("manpages-ja", "manpages-ja", manual_pages),
]


def lines(pages: dict[str, str]) -> list[bytes]:
    return [json.dumps({"id": key, "text": pages[key]}, ensure_ascii=False).encode() + b"\n" for key in sorted(pages)]


def hundred_megabytes(adapted: dict[str, str]) -> dict[str, str]:
    """All that is adapted to, and Rust sources up to 100 MB."""
    pages = dict(adapted)
    size = sum(len(text.encode()) for text in pages.values())
    home = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
    for path in sorted(home.glob("registry/src/**/*.rs")):
        if size >= HUNDRED_MEGABYTES:
            break
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        pages[str(path.relative_to(home))] = text
        size += len(text.encode())
    if size < HUNDRED_MEGABYTES:
        print(f"only {size:,} bytes: cargo has not downloaded enough sources", file=sys.stderr)
    return pages


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", nargs="?", type=Path, default=ROOT / "target/corpora", help="folder to write")
    parser.add_argument("--debs", type=Path, help="folder with packages; those that lack are fetched")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    adapted = {}
    for name, package, read in ADAPTED + OUTSIDE:
        deb = next(iter(sorted(arguments.debs.glob(f"{package}_*.deb"))), None) if arguments.debs else None
        with tempfile.TemporaryDirectory() as scratch:
            root, version = make_corpus.unpack(package, deb, Path(scratch))
            pages = read(root)
        if (name, package, read) in ADAPTED:
            adapted.update({f"{name}/{key}": text for key, text in pages.items()})
        else:
            pages = make_corpus.sample(pages, OUTSIDE_LIMIT)
        size = sum(len(text.encode()) for text in pages.values())
        print(f"{name}: {package} {version}, {len(pages):,} documents, {size:,} bytes", file=sys.stderr)
        make_corpus.write(arguments.out / f"{name}.jsonl", b"".join(lines(pages)))
    mixed = lines(hundred_megabytes(adapted))
    random.Random(1).shuffle(mixed)
    make_corpus.write(arguments.out / "hundred-megabytes.jsonl", b"".join(mixed))


if __name__ == "__main__":
    try:
        main()
    except make_corpus.CorpusError as error:
        sys.exit(f"error: {error}")
