"""The Debian 12 packages that the corpus is made of.

Only packages of the archive area "main" (the Debian Free Software Guidelines) are accepted; corpus.py
refuses any other. `licence` summarises the package's copyright file for the text that is used.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Source:
    """Files of one Debian package and how to read them."""

    package: str
    # Name of a function in readers.py.
    reader: str
    # Glob patterns below the unpacked package, "**" crosses folders.
    globs: tuple[str, ...]
    licence: str
    # How often the training split holds the text (prose is scarce, so some of it comes twice).
    repeats: int = 1
    # Regular expression on the path below the package: files to leave out (translations, API listings).
    exclude: str = ""


_DOC = "usr/share/doc/"
_PLAIN_LANGUAGE = r"/(translations|it_IT|ja_JP|ko_KR|zh_CN|zh_TW|sp_SP)/"

SOURCES = (
    # Prose.
    Source("r-cran-janeaustenr", "r_strings", ("**/data/Rdata.rdb",), "MIT (texts: public domain)", 3),
    Source("sword-text-web", "sword", ("**/*.bzz",), "public domain", 2),
    Source("sword-text-kjv", "sword", ("**/*.bzz",), "public domain (outside the UK)", 2),
    Source("anarchism", "markdown", ("**/*.md", "**/*.md.gz"), "GPL-2", 2),
    Source("fortunes", "fortunes", ("usr/share/games/fortunes/*",), "BSD-4-clause collection", 2),
    Source("wesnoth-1.16-data", "wesnoth", ("**/*.cfg",), "GPL-2+", 2),
    Source("endless-sky-data", "endless_sky", ("**/*.txt",), "GPL-3+", 2),
    Source("crawl-common", "plain", ("**/dat/descript/*.txt", "**/dat/database/*.txt"), "GPL-2+", 2),
    Source("cataclysm-dda-data", "cataclysm", ("**/*.json",), "CC-BY-SA-3.0"),
    Source("stellarium-data", "html", ("**/description.en.utf8",), "GPL-2+", 2),
    Source("debian-history", "html", ("**/*.en.html",), "GPL-2+"),
    # Dictionaries.
    Source("dict-gcide", "dictd", ("**/*.dict.dz",), "GPL-3+"),
    Source("dict-foldoc", "dictd", ("**/*.dict.dz",), "GFDL-1.1+ (no invariant sections)", 2),
    Source("dict-devil", "dictd", ("**/*.dict.dz",), "public domain", 2),
    Source("dict-elements", "dictd", ("**/*.dict.dz",), "public domain", 2),
    Source("jargon-text", "plain", ("**/*.txt", "**/*.txt.gz"), "public domain", 2),
    Source("wordnet-base", "wordnet", ("usr/share/wordnet/data.*",), "WordNet 3.0"),
    Source("miscfiles", "plain", ("usr/share/misc/*.gz",), "GPL-2+"),
    # Handbooks.
    Source("debian-handbook", "html", ("**/en-US/*.html",), "GPL-2+ or CC-BY-SA-3.0", 2),
    Source("debian-faq", "html", ("**/*.html",), "GPL-2+"),
    Source("debian-policy", "html", ("**/*.html",), "GPL-2+"),
    Source("debian-reference-en", "html", ("**/*.en.html",), "GPL-2+"),
    Source("debian-edu-doc-en", "html", ("**/*.html",), "GPL-2+"),
    Source("debmake-doc", "html", ("**/*.en.html", "**/en/*.html"), "Expat"),
    Source("developers-reference", "html", ("**/*.html",), "GPL-2+"),
    Source("doc-debian", "plain", ("**/*.txt", "**/*.txt.gz"), "permissive, public domain"),
    Source("harden-doc", "html", ("**/*en*/*.html", "**/*.en.html"), "GPL-2+"),
    Source("installation-guide-amd64", "html", ("**/en/*.html", "**/*.en.html"), "GPL-2+"),
    Source("freedombox-doc-en", "html", ("**/*.html",), "CC-BY-SA-3.0"),
    Source("gnome-user-docs", "html", ("**/C/**/*.page",), "CC-BY-SA-3.0", 2),
    Source("gimp-help-en", "html", ("**/*.html",), "GFDL-1.2+ (no invariant sections)", 2),
    Source("gnucash-docs", "html", ("**/gnucash-guide-en/*.html", "**/gnucash-help-en/*.html"),
           "GFDL-1.1+ (no invariant sections)"),
    Source("libreoffice-help-en-us", "html", ("**/en-US/**/*.html",), "MPL-2.0"),
    # Manuals.
    Source("manpages", "roff", ("usr/share/man/man*/*",), "GPL-2+, Linux-man-pages-copyleft"),
    Source("manpages-dev", "roff", ("usr/share/man/man*/*",), "GPL-2+, Linux-man-pages-copyleft"),
    Source("freebsd-manpages", "roff", ("usr/share/man/man*/*",), "BSD-2-clause, BSD-4-clause"),
    Source("tcl8.6-doc", "roff", ("usr/share/man/man*/*",), "Tcl (BSD style)"),
    Source("tk8.6-doc", "roff", ("usr/share/man/man*/*",), "Tcl (BSD style)"),
    Source("perl-doc", "pod", ("**/*.pod",), "GPL-1+ or Artistic"),
    Source("git-doc", "html", ("**/*.html",), "GPL-2"),
    Source("python3.11-doc", "html", ("**/html/**/*.html",), "PSF-2.0",
           exclude=r"/(genindex|whatsnew/changelog|py-modindex|search)"),
    Source("linux-doc-6.1", "plain", ("**/_sources/**/*.rst.txt",), "GPL-2", exclude=_PLAIN_LANGUAGE),
    Source("postgresql-doc-15", "html", ("**/*.html",), "PostgreSQL"),
    Source("sqlite3-doc", "html", ("**/*.html",), "public domain"),
    Source("apache2-doc", "html", ("**/manual/en/**/*.html", "**/*.html.en"), "Apache-2.0"),
    Source("postfix-doc", "html", ("**/*.html",), "IPL-1.0 or EPL-2.0", exclude=r"\.\d\.html"),
    Source("exim4-doc-html", "html", ("**/*.html",), "GPL-2+"),
    Source("vim-doc", "html", ("**/*.html",), "Vim, OPL-1+ (no options)"),
    Source("mercurial-common", "plain", ("**/helptext/**/*.txt",), "GPL-2+"),
    Source("kicad-doc-en", "html", ("**/*.html",), "GPL-3+ or CC-BY-3.0"),
    Source("grass-doc", "html", ("**/*.html",), "GPL-2+"),
    Source("octave-doc", "html", ("**/octave.html/*.html",), "GPL-3+"),
    Source("r-doc-html", "html", ("**/*.html",), "GPL-2"),
    Source("swi-prolog-doc", "html", ("**/*.html",), "BSD-2-clause"),
    Source("rust-doc", "html",
           ("**/html/book/*.html", "**/html/reference/**/*.html", "**/html/nomicon/*.html",
            "**/html/rust-by-example/**/*.html", "**/html/cargo/**/*.html", "**/html/rustc/**/*.html",
            "**/html/rustdoc/**/*.html", "**/html/edition-guide/**/*.html"),
           "MIT or Apache-2.0", exclude=r"/print\.html"),
    Source("python-django-doc", "html", ("**/*.html",), "BSD-3-clause",
           exclude=r"/(genindex|_modules|search|py-modindex)"),
    Source("python-sqlalchemy-doc", "html", ("**/*.html",), "Expat", exclude=r"/(genindex|changelog)"),
    Source("python-sympy-doc", "plain", ("**/_sources/**/*.rst.txt",), "BSD-3-clause"),
    Source("python-sklearn-doc", "html", ("**/*.html",), "BSD-3-clause",
           exclude=r"/(genindex|_modules|_downloads|search|py-modindex)"),
    Source("python-scipy-doc", "html", ("**/*.html",), "BSD-3-clause",
           exclude=r"/(genindex|_modules|search|py-modindex)"),
    Source("python-pandas-doc", "html", ("**/html/user_guide/*.html", "**/html/getting_started/**/*.html",
                                         "**/html/whatsnew/*.html"), "BSD-3-clause"),
)
