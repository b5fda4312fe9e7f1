// What the search box asks, in place of fuzzy matching: a name or a title first, then headings,
// then text. A whole word counts more than the beginning of one, and that more than a part.
window.Fuse = class {
  constructor(entries) {
    const lower = (s) => (s || "").toLowerCase();
    this.entries = entries.map((item) => {
      const head = lower(item.section || item.title);
      return { item, head, title: lower(item.title), text: lower(item.text) };
    });
  }

  // 3: all words stand there, 2: as beginnings of words, 1: as parts of words, 0: not all of them
  found(words, text) {
    const escape = (w) => w.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
    const forms = [(w) => `(?<!\\w)${w}(?!\\w)`, (w) => `(?<!\\w)${w}`, (w) => w];
    const at = forms.findIndex((f) => words.every((w) => new RegExp(f(escape(w))).test(text)));
    return at < 0 ? 0 : 3 - at;
  }

  score(entry, query, words) {
    if (entry.head === query) return entry.item.section ? 100 : 110;
    if (entry.head.split(".").pop() === query) return 90;
    if (entry.head.startsWith(query)) return 80;
    const inHead = this.found(words, entry.head);
    if (inHead) return 40 + 10 * inHead;
    const inBoth = this.found(words, `${entry.title} ${entry.head}`);
    if (inBoth) return 20 + 5 * inBoth;
    return 5 * this.found(words, entry.text);
  }

  search(text, { limit = 20 } = {}) {
    const query = text.toLowerCase().trim();
    const words = query.split(/\s+/);
    return this.entries
      .map((entry, refIndex) => ({ item: entry.item, refIndex, rank: this.score(entry, query, words) }))
      .filter((hit) => hit.rank > 0)
      .sort((a, b) => b.rank - a.rank || a.refIndex - b.refIndex)
      .slice(0, limit);
  }
};
