"""A built docs site as a reader's browser sees it; the last line is `N passed, M failed`.

Usage, in the root of the project: python tools/check_site.py SITE [--quarto]
--quarto: the site is built by Quarto, and its CDNs are allowed
"""

import functools
import http.server
import json
import re
import runpy
import sys
import tempfile
import threading
import time
from pathlib import Path
from shutil import which
from urllib.parse import unquote, urljoin, urlparse

from bs4 import BeautifulSoup
from gallery import WALL
from nbdev.config import get_config

PROC, INDEX = Path("_proc"), Path("nsgf_nb/_modidx.py")
UNREAD = re.compile(
    r".{0,20}(?::::|\]\(|\{#[\w-]+\}|\$\$|(?<!\w)@(?:eq|fig|sec|tbl)-[\w-]+|\\begin\{|\?@|#\| )"
    r".{0,30}"
)
PAINTED = """
const formulas = [...document.querySelectorAll('span.math,.math.notranslate,.arithmatex')];
const done = e => e.querySelector('.katex,mjx-container') || e.closest('.katex');
const red = '.katex-error,.katex mstyle[mathcolor="#cc0000"],mjx-merror';
const errors = document.querySelectorAll(red);
const missing = [...document.images].filter(i => !i.complete || !i.naturalWidth);
return {
  formulas: formulas.length,
  raw: formulas.filter(e => !done(e)).map(e => e.innerText.slice(0, 60)),
  errors: [...errors].map(e => e.textContent.slice(0, 60)),
  images: document.images.length,
  missing: missing.map(i => i.src.slice(0, 80)),
}"""

SEEN = r"""
const main = document.querySelector('main') || document.body;
const bad = {contrast: [], headings: [], silent: []};
// contrast (WCAG 2): each text against what lies behind it
const rgba = c => {
  const n = c.match(/[\d.]+/g).map(Number);
  return n.length < 4 ? [...n.slice(0, 3), 1] : n;
};
const over = (a, b) => {
  const t = a[3] + b[3]*(1 - a[3]);
  const mixed = [0, 1, 2].map(i => (a[i]*a[3] + b[i]*b[3]*(1 - a[3]))/t);
  return t ? mixed.concat(t) : [0, 0, 0, 0];
};
const back = new Map();
const behind = e => {
  if (!e) return [255, 255, 255, 1];
  if (!back.has(e)) {
    const own = rgba(getComputedStyle(e).backgroundColor);
    back.set(e, own[3] === 1 ? own : over(own, behind(e.parentElement)));
  }
  return back.get(e);
};
const linear = v => v <= .04045 ? v/12.92 : ((v + .055)/1.055)**2.4;
const light = c => {
  const f = c.slice(0, 3).map(v => linear(v/255));
  return .2126*f[0] + .7152*f[1] + .0722*f[2];
};
const faint = e => {
  let o = 1;
  for (; e; e = e.parentElement) o *= +getComputedStyle(e).opacity;
  return o;
};
const seen = new Set(), walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
for (let n; n = walk.nextNode();) {
  const e = n.parentElement;
  if (!n.data.trim() || seen.has(e) || e.closest('script,style,.katex-mathml,.skip-link')) continue;
  seen.add(e);
  if (!e.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
  const st = getComputedStyle(e), bg = behind(e), c = rgba(st.color);
  c[3] *= faint(e);
  const [hi, lo] = [light(over(c, bg)), light(bg)].sort((p, q) => q - p);
  const ratio = (hi + .05)/(lo + .05), px = parseFloat(st.fontSize);
  const large = px >= 24 || px >= 18.66 && st.fontWeight >= 700;
  if (ratio < (large ? 3 : 4.5)) {
    const where = `${e.tagName.toLowerCase()}.${e.className}`;
    bad.contrast.push(`${ratio.toFixed(2)} ${where}: ${n.data.trim().slice(0, 30)}`);
  }
}
bad.texts = seen.size;
// headings: one of level 1, and no level is left out on the way down
const headings = [...main.querySelectorAll('h1,h2,h3,h4,h5,h6')].filter(h => h.checkVisibility());
const levels = headings.map(h => [+h.tagName[1], h.innerText.trim().slice(0, 40)]);
const first = levels.filter(([l]) => l === 1).length;
if (first !== 1) bad.headings.push(`${first} headings of level 1`);
levels.forEach(([l, t], i) => {
  const above = i ? levels[i - 1][0] : 0;
  if (l > above + 1) bad.headings.push(`level ${l} after ${above}: ${t}`);
});
bad.silent = [...document.images].filter(i => !(i.alt || '').trim()).map(i => i.src.slice(-60));
return bad;"""
WIDE = """
const blocks = [...document.querySelectorAll('main pre')].filter(p => p.checkVisibility());
const wide = blocks.filter(p => p.scrollWidth > p.clientWidth);
return wide.map(p => `${p.scrollWidth} px in ${p.clientWidth}: ${p.innerText.slice(0, 40)}`);"""
DARK = "return document.documentElement.classList.contains('quarto-dark')"
FOCUS = """
const e = document.activeElement, s = getComputedStyle(e), r = e.getBoundingClientRect();
const outlined = s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) > 0;
const shown = outlined && r.width > 0 && r.bottom > 0;
return [e.className || e.tagName, e.getAttribute('href') || '', shown];"""
# what a reader types → what stands first: names of the API, then pages
FIRST_HITS = {
    "SinkhornVelocity": "3_solver/estimator.html#sinkhornvelocity",
    "sinkhorn_divergence": "3_solver/loss.html#sinkhorn_divergence",
    "log_prob": "6_matching/likelihood.html#log_prob",
    "install": "install.html",
    "gallery": "gallery.html",
    "cite": "bibliography.html#how-to-cite",
}
STILL = """
const style = document.createElement('style');
style.textContent = '* {transition: none !important}';
document.head.append(style);"""


class Site:
    "The pages, the processed notebooks behind them, and the index of exported symbols"

    def __init__(self, folder):
        self.folder, index = folder, runpy.run_path(str(INDEX))["d"]
        self.base = (
            index["settings"]["doc_host"].rstrip("/")
            + index["settings"]["doc_baseurl"].rstrip("/")
            + "/"
        )
        self.symbols = {
            s: url
            for module, all_ in index["syms"].items()
            for s, (url, _) in all_.items()
            if not any(part.startswith("_") for part in s[len(module) + 1 :].split("."))
        }
        self.pages = {
            p.relative_to(folder).as_posix(): BeautifulSoup(p.read_text(), "lxml")
            for p in sorted(folder.rglob("*.html"))
        }
        self.ids = {
            k: {t["id"] for t in s.find_all(id=True)}
            | {t["name"] for t in s.find_all("a", attrs={"name": True})}
            for k, s in self.pages.items()
        }
        self.notebooks = {p: json.loads(p.read_text()) for p in sorted(PROC.rglob("*.ipynb"))}
        self.page_of = {p: self._page(p, nb) for p, nb in self.notebooks.items()}

    def _page(self, path, nb):
        m = re.search(r"^output-file: *(\S+)", "".join(nb["cells"][0]["source"]), re.M)
        return path.relative_to(PROC).with_name(m[1] if m else path.stem + ".html").as_posix()


def links(site):
    "internal links and their anchors"
    for page, soup in site.pages.items():
        for tag in soup.find_all(["a", "link", "script", "img"]):
            url = tag.get("href") or tag.get("src")
            if not url or url.startswith(("data:", "mailto:", "javascript:", "#toc")):
                continue
            if url.startswith(site.base):
                url = "/" + url[len(site.base) :]
            parts = urlparse(url)
            if parts.scheme or parts.netloc:
                continue
            target = unquote(urlparse(urljoin("/" + page, url)).path).lstrip("/") or "index.html"
            if target.endswith("/"):
                target += "index.html"
            if not (site.folder / target).exists():
                yield f"{page}: {url}: no file {target}"
            elif (
                parts.fragment
                and target in site.ids
                and unquote(parts.fragment) not in site.ids[target]
            ):
                yield f"{page}: {url}: no {parts.fragment} in {target}"


def one_page_each(site):
    "a page for each notebook"
    if not site.notebooks:
        yield "no notebook in _proc"
    yield from (f"{p}: no {page}" for p, page in site.page_of.items() if page not in site.pages)


def in_sidebar(site, page):
    "The pages that the sidebar of a page leads to, in its order"
    bar = site.pages[page].find(id="quarto-sidebar")
    hrefs = [a["href"] for a in bar.find_all("a", href=True)] if bar else []
    return [urlparse(urljoin("/" + page, href)).path.lstrip("/") for href in hrefs]


def reached(site):
    "the navigation of every page leads to every page"
    for page in site.page_of.values():
        if page in site.pages:
            missing = set(site.page_of.values()) - set(in_sidebar(site, page))
            yield from (f"{page}: no way to {other}" for other in sorted(missing))


def in_order(site):
    "the navigation follows the folders: chapters and lessons by their numbers"
    of_folders = [site.page_of[p] for p in sorted(site.page_of) if p.parent != PROC]
    lessons = set(of_folders)
    shown = [page for page in in_sidebar(site, "index.html") if page in lessons]
    if shown != of_folders:
        differ = [pair for pair in zip(shown, of_folders) if pair[0] != pair[1]]
        here, there = differ[0] if differ else (f"{len(shown)} pages", len(of_folders))
        yield f"{here} stands where {there} was expected"


def shown_in_source(site, page, symbol):
    """A method that stands inside its class.

    nbdev gives it no entry of its own; its page shows the definition with its parameters.
    """
    return (
        symbol.count(".") > 2
        and page in site.pages
        and re.search(rf"def {symbol.split('.')[-1]}\s*\(", site.pages[page].get_text())
    )


def shows_signature(head, symbol):
    "Whether the section of a heading shows the call of a symbol"
    section = head if head.name == "section" else head.find_parent("section") or head.parent
    return re.search(rf"\b{re.escape(symbol.split('.')[-1])}\s*\(", section.get_text())


def reference(site):
    "each exported symbol has its anchor and its signature"
    for symbol, url in site.symbols.items():
        page, _, anchor = url.partition("#")
        # names that differ in their case only, as ends and Ends, get anchors with a number
        same = re.compile(rf"{re.escape(anchor)}(-\d+)?$")
        heads = site.pages[page].find_all(id=same) if page in site.pages else []
        if not heads and shown_in_source(site, page, symbol):
            continue
        if not heads:
            yield f"{symbol}: no {url}"
        elif not any(shows_signature(head, symbol) for head in heads):
            yield f"{symbol}: no signature at {url}"


def tables(site):
    "parameters stand in tables, with their formulas"
    found = [
        t
        for s in site.pages.values()
        for t in s.select("main table")
        if t.find("th") and t.find("th").get_text(strip=True) == "parameter"
    ]
    functions = [
        name
        for name, url in site.symbols.items()
        if url.partition("#")[0] in site.pages and name.count(".") < 3
    ]
    if len(found) < 0.5 * len(functions):
        yield f"{len(found)} tables for {len(functions)} definitions"
    if not any(t.select(".math") for t in found):
        yield "no formula in any of them"


def icon(site):
    "each page has its icon"
    for page, soup in site.pages.items():
        link = soup.find("link", rel=lambda r: r and "icon" in r)
        if link is None or not (site.folder / page).parent.joinpath(link["href"]).exists():
            yield f"{page}: no icon"


def small(site):
    "no picture file over 500 KB"
    yield from (
        f"{p}: {p.stat().st_size / 1000:.0f} KB"
        for p in site.folder.rglob("*")
        if p.suffix in (".png", ".gif", ".svg", ".jpg") and p.stat().st_size > 500_000
    )


def markup(site):
    "no markup left unread"
    for page, soup in site.pages.items():
        main = BeautifulSoup(str(soup.find("main") or soup.body), "lxml")
        for tag in main(["pre", "code", "script", "style", "annotation"]) + main.select(
            ".math, .katex"
        ):
            tag.decompose()
        yield from (f"{page}: {hit}" for hit in UNREAD.findall(main.get_text(" ")))


def signed(site):
    "each page says its version, and offers the notebook that it is"
    version = get_config().version
    for page in site.page_of.values():
        soup = site.pages.get(page)
        if soup is None:
            continue
        foot = soup.find("footer")
        if foot is None or version not in foot.get_text():
            yield f"{page}: no version {version} below it"
        if not soup.select('.notebook-links a[download][href$=".ipynb"]'):
            yield f"{page}: no notebook to download"


def wall(site):
    "the gallery has a picture for each card, and each leads to its lesson"
    soup = site.pages.get("gallery.html")
    shown = soup.select('main a[href$=".html"] > img') if soup else []
    cards = sum(map(len, WALL.values()))
    if len(shown) != cards:
        yield f"{len(shown)} pictures with a link, {cards} cards"


def figures(site):
    "the figures of the notebooks are shown"
    drawn = sum(
        any(k.startswith("image/") for k in o.get("data", {}))
        for nb in site.notebooks.values()
        for c in nb["cells"]
        for o in c.get("outputs", [])
    )
    shown = sum(
        len(
            s.select(
                'main .cell img, main .cell-output img, main .cell svg, main img[src*="_files/"]'
            )
        )
        for s in site.pages.values()
    )
    if shown < drawn:
        yield f"{shown} of {drawn}"


def until(holds, seconds=20):
    """Whether `holds()` comes true.

    The seconds guard against hanging: a page on a busy machine takes its time.
    """
    end = time.monotonic() + seconds
    while not (held := holds()) and time.monotonic() < end:
        time.sleep(0.05)
    return held


class Browser:
    "Headless Chromium, and the folder served to it"

    def __init__(self, folder, online):
        from selenium import webdriver
        from selenium.webdriver.chrome.service import Service

        class Quiet(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))
        )
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.root, self.profile = (
            f"http://127.0.0.1:{self.server.server_address[1]}/",
            tempfile.TemporaryDirectory(),
        )
        options = webdriver.ChromeOptions()
        options.binary_location = (
            which("chromium") or which("chromium-browser") or which("google-chrome")
        )
        for flag in (
            "headless",
            "no-sandbox",
            "disable-gpu",
            "disable-dev-shm-usage",
            "no-first-run",
            "disable-background-networking",
            "disable-component-update",
            "disable-sync",
            "window-size=1280,900",
            f"user-data-dir={self.profile.name}",
        ):
            options.add_argument("--" + flag)
        if not online:
            options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(which("chromedriver")))

    def look(self, page):
        "What one page shows, asks for and says: a dictionary"
        self.driver.get(self.root + page)
        until(lambda: not self.driver.execute_script(PAINTED)["raw"])
        seen = self.driver.execute_script(PAINTED)
        events = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        urls = [
            e["params"]["request"]["url"]
            for e in events
            if e["method"] == "Network.requestWillBeSent"
        ]
        seen["external"] = [
            u
            for u in urls
            if u.startswith(("http:", "https:", "ws")) and not u.startswith(self.root)
        ]
        seen["console"] = [
            e["message"][:150]
            for e in self.driver.get_log("browser")
            if e["level"] == "SEVERE" and "favicon" not in e["message"]
        ]
        seen["wide"] = self.driver.execute_script(WIDE)
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True},
        )
        seen["phone"] = self.driver.execute_script("return document.documentElement.scrollWidth")
        self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        seen |= self.driver.execute_script(SEEN)
        seen["dark"] = self.dark()
        return seen

    def dark(self):
        "Contrast complaints of the other theme"
        toggle = (
            "if (!window.smalldocsToggleScheme) return false; smalldocsToggleScheme(); return true"
        )
        if not self.driver.execute_script(toggle):
            return []
        until(lambda: self.driver.execute_script(DARK))
        self.driver.execute_script(STILL)
        found = self.driver.execute_script(SEEN)["contrast"]
        if not self.driver.execute_script(DARK):
            found = ["it does not get dark"]
        self.driver.execute_script("smalldocsToggleScheme(); localStorage.clear()")
        return found

    def keyboard(self):
        "What stops the reader who has no mouse, on the home page"
        from selenium.webdriver.common.keys import Keys

        self.driver.get(self.root + "index.html")
        time.sleep(0.3)
        stops = []
        for _ in range(25):
            self.driver.switch_to.active_element.send_keys(Keys.TAB)
            stops.append(self.driver.execute_script(FOCUS))
        if "skip-link" not in stops[0][0]:
            yield f"the first stop is {stops[0][0]}, not the way to the content"
        yield from (f"no outline on {name} {href}" for name, href, shown in stops if not shown)
        if not any(href.endswith("1_data/data.html") for _, href, _ in stops):
            yield "the menu is not reached in 25 stops"
        self.driver.get(self.root + "index.html")
        time.sleep(0.3)
        self.driver.switch_to.active_element.send_keys(Keys.TAB)
        self.driver.switch_to.active_element.send_keys(Keys.ENTER)
        if not until(lambda: self.driver.current_url.endswith("#quarto-document-content")):
            yield "the skip link leads nowhere"

    def search(self):
        "What keeps a reader from finding a word"
        from selenium.webdriver.common.by import By
        from selenium.webdriver.common.keys import Keys

        self.driver.get(self.root + "index.html")
        time.sleep(0.3)
        field = self.driver.find_element(By.CSS_SELECTOR, "input[type=search]")
        results = ".smalldocs-search-results.show .search-result"

        def found(words):
            "Pages and anchors that the box offers for some words"
            field.clear()
            field.send_keys(words)
            time.sleep(0.3)  # the box waits for a reader who goes on typing
            hits = until(lambda: self.driver.find_elements(By.CSS_SELECTOR, results))
            return [h.get_attribute("href").removeprefix(self.root) for h in hits]

        for words, page in FIRST_HITS.items():
            hits = found(words)
            if not hits or hits[0] != page:
                yield f"{words!r} finds {hits[:3]} before {page}"
        hits = found("natural time")
        if not any("particles" in h for h in hits):
            yield f"'natural time' finds {hits[:5]}"
            return
        field.send_keys(Keys.ENTER)
        if not until(lambda: not self.driver.current_url.endswith("index.html")):
            yield "Enter does not open the first result"

    def close(self):
        self.driver.quit()
        self.server.shutdown()
        self.profile.cleanup()


def browse(site, online):
    "Name and complaints of each check that needs a browser"
    browser = Browser(site.folder, online)
    try:
        seen = {
            page: browser.look(page)
            for page in sorted(set(site.page_of.values()) & set(site.pages))
        }
        keyboard, search = (
            ([], []) if online else (list(browser.keyboard()), list(browser.search()))
        )
    finally:
        browser.close()
    each = lambda key: [f"{page}: {x}" for page, s in seen.items() for x in s[key]]
    formulas = sum(s["formulas"] for s in seen.values())
    yield (
        f"{formulas} formulas rendered",
        each("raw") + each("errors") + ([] if formulas else ["no formula on any page"]),
    )
    yield f"{sum(s['images'] for s in seen.values())} pictures load", each("missing")
    if not online:
        yield "nothing asked of the network", each("external")
    yield "no error in the console", each("console")
    yield (
        "fits a phone",
        [
            f"{page}: {s['phone']} px wide on a 390 px screen"
            for page, s in seen.items()
            if s["phone"] > 390
        ],
    )
    if not online:
        yield "code fits its column at 1280 px", each("wide")
    yield "every picture is described", each("silent")
    if online:
        return  # the rest has been tried with the offline site only
    yield f"contrast of {sum(s['texts'] for s in seen.values())} texts, light", each("contrast")
    yield "contrast, dark", each("dark")
    yield "headings in order", each("headings")
    yield "the keyboard reaches what the mouse does, and shows where it is", keyboard
    yield "search finds a word, names and pages first", search


def main(folder, online=False):
    site, passed, failed = Site(folder), 0, 0
    checks = [
        (f.__doc__, f(site))
        for f in (
            links,
            one_page_each,
            reached,
            in_order,
            reference,
            tables,
            markup,
            figures,
            signed,
            wall,
            icon,
            small,
        )
    ]
    for name, complaints in [*checks, *browse(site, online)]:
        complaints = list(complaints)
        print("FAIL" if complaints else "ok  ", name)
        for c in complaints[:15]:
            print("      ", c)
        if len(complaints) > 15:
            print(f"       … {len(complaints)} in all")
        passed, failed = passed + (not complaints), failed + bool(complaints)
    print(f"{passed} passed, {failed} failed")
    return failed


if __name__ == "__main__":
    folders = [a for a in sys.argv[1:] if not a.startswith("-")]
    if len(folders) != 1:
        sys.exit(__doc__)
    sys.exit(bool(main(Path(folders[0]), "--quarto" in sys.argv)))
