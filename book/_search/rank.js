/** How much a word counts for where it stands. */
const PLACES = { title: 6, page: 1.5, text: 1 };
/** How many words stand in such a place, about. */
const TYPICAL = { title: 4, page: 8, text: 120 };
/** How much a word counts that is not the very word asked for. */
const LIKE = { same: 1, stem: 0.9, begins: 0.6, means: 0.6, typo: 0.5 };
/** How much an entry counts for its kind. */
const KIND = { section: 1, aside: 0.65, term: 0.8, claim: 0.75, name: 1 };
/** Words that stand between those that are asked for. */
const GLUE = new Set(["a", "an", "and", "of", "or", "the"]);
/** Words that say little of what is asked for. */
const WEAK = new Set("am are can do does for how i if in is it my to what when with".split(" "));
/** Readers' words, and the words of the book that mean the same (stems). */
const MEANS = {
  bn: ["batchnorm"], batchnorm: ["bn"], diverg: ["nan"], nan: ["diverg"], infinit: ["nan"],
  eval: ["inferenc", "predict"], test: ["inferenc", "predict"], torch: ["pytorch"],
  frozen: ["freez"], freez: ["frozen"], unfreez: ["freez"], transfer: ["tun"], finetun: ["tun"],
  overfit: ["regulariz"], lr: ["rat"], gpu: ["devic"], wors: ["bad"], bad: ["wors"],
  tin: ["small"], runn: ["mov"], merg: ["fold"], fus: ["fold"], conv: ["convolut"],
  inferenc: ["deployment"], 1: ["one"], quantiz: ["bit"], int8: ["bit"],
};
const GREEK = { α: "alpha", β: "beta", γ: "gamma", ε: "epsilon", λ: "lambda", μ: "mu", σ: "sigma" };

/** The words of a text, in lower case; a name such as use_bias is one, and a number such as 1,500. */
export function wordsOf(text) {
  let plain = text.toLowerCase().replaceAll("'", "");
  if (/[^\0-\x7f]/.test(plain)) {
    plain = plain
      .normalize("NFKD")
      .replace(/[\u0300-\u036f’]/g, "")
      .replace(/[α-ω]/g, (letter) => ` ${GREEK[letter] ?? ""} `);
  }
  return plain.match(/\d+(?:[.,]\d+)+|[a-z0-9]+(?:_[a-z0-9]+)*/g) ?? [];
}

/** What a word has in common with its other forms. */
export function stemOf(word) {
  if (/[_\d]/.test(word)) return word;
  const stem = word.replace(/(?:ations?|ions?|ings?|ate[ds]?|ies|ed|es|ly|[esy])$/, "");
  return stem.length > 2 ? stem : word;
}

/** Whether a word is at most `most` letters put in, left out, mistaken or swapped from another. */
export function isNear(word, other, most) {
  if (Math.abs(word.length - other.length) > most) return false;
  let before = [], last = Array.from({ length: other.length + 1 }, (_, column) => column);
  for (let row = 1; row <= word.length; row++) {
    const now = [row];
    for (let column = 1; column <= other.length; column++) {
      const mistaken = word[row - 1] === other[column - 1] ? 0 : 1;
      now[column] = Math.min(last[column] + 1, now[column - 1] + 1, last[column - 1] + mistaken);
      const swapped = word[row - 1] === other[column - 2] && word[row - 2] === other[column - 1];
      if (swapped) now[column] = Math.min(now[column], before[column - 2] + 1);
    }
    [before, last] = [last, now];
  }
  return last[other.length] <= most;
}

/**
 * What can be searched, made of the entries of all pages.
 * @param {Object<string, {url: string, title: string, weight: number, entries: string[][]}>} pages
 */
export function indexOf(pages) {
  const entries = [];
  const places = new Map(); // word -> Map(number of an entry -> how much the word counts there)
  for (const page of Object.values(pages)) {
    const pageWords = wordsOf(page.title);
    for (const [anchor, heading, text, kind] of page.entries) {
      const title = anchor ? heading : page.title;
      const number = entries.length;
      const own = { title: titleWords(title, kind), page: pageWords, text: wordsOf(text) };
      const counts = new Map();
      for (const [place, words] of Object.entries(own)) {
        const each = PLACES[place] / (0.5 + 0.5 * Math.sqrt(words.length / TYPICAL[place]));
        for (const word of words) counts.set(word, (counts.get(word) ?? 0) + each);
      }
      for (const [word, count] of counts) {
        if (!places.has(word)) places.set(word, new Map());
        places.get(word).set(number, count);
      }
      entries.push({
        url: page.url + (anchor ? `#${anchor}` : ""),
        title, text, kind, page, anchor,
        words: own, stems: null, names: null, // the last two when they are asked for
      });
    }
  }
  const byStem = new Map();
  for (const word of places.keys()) {
    const stem = stemOf(word);
    byStem.set(stem, [...(byStem.get(stem) ?? []), word]);
  }
  return { entries, places, byStem, vocabulary: [...places.keys()].sort() };
}

/** The words of a title; a member's module is the page that it stands on. */
function titleWords(title, kind) {
  return wordsOf(kind === "name" ? title.replace(/^\w+\./, "") : title);
}

/** The words of the index that answer a word of a question: [[word, how well], ...]. */
function answers(index, word, isLast) {
  const found = new Map();
  const add = (other, quality) => found.set(other, Math.max(found.get(other) ?? 0, quality));
  const stem = stemOf(word);
  if (index.places.has(word)) add(word, LIKE.same);
  for (const other of index.byStem.get(stem) ?? []) add(other, LIKE.stem);
  for (const means of MEANS[stem] ?? MEANS[word] ?? []) {
    for (const other of index.byStem.get(means) ?? []) add(other, LIKE.means);
  }
  if (/\D/.test(word) && (isLast || word.length > 3)) {
    for (const other of index.vocabulary) if (other.startsWith(word)) add(other, LIKE.begins);
  }
  if (found.size) return { found: [...found], typo: null };
  const most = word.length > 7 ? 2 : word.length > 3 ? 1 : 0;
  const near = most ? index.vocabulary.filter((other) => isNear(word, other, most)) : [];
  const often = (other) => index.places.get(other).size;
  const typo = near.sort((one, other) => often(other) - often(one))[0] ?? null;
  return { found: typo ? [[typo, LIKE.typo]] : [], typo };
}

/**
 * What is found for a question, best first.
 * @returns {{results: {entry: object, score: number}[], meant: string, words: Set<string>}} `meant`
 *   is the question with slips mended; `words` are the words that were found.
 */
export function search(index, question) {
  const asked = wordsOf(question);
  const scores = new Map();
  const weights = [], shown = new Set(), meant = [];
  asked.forEach((word, at) => {
    const { found, typo } = answers(index, word, at === asked.length - 1);
    meant.push(typo ?? word);
    const best = new Map();
    for (const [other, quality] of found) {
      shown.add(other);
      for (const [number, count] of index.places.get(other)) {
        const value = quality * count / (count + 1.5);
        if (value > (best.get(number) ?? 0)) best.set(number, value);
      }
    }
    const exact = found.filter(([, quality]) => quality >= LIKE.means);
    const seen = new Set();
    for (const [other] of exact.length ? exact : found) {
      for (const number of index.places.get(other).keys()) seen.add(number);
    }
    const rest = index.entries.length - seen.size;
    const weak = GLUE.has(word) || WEAK.has(word) ? 0.3 : 1;
    const weight = weak * Math.log(1 + (rest + 0.5) / (seen.size + 0.5));
    weights.push(weight);
    for (const [number, value] of best) {
      const score = scores.get(number) ?? { sum: 0, covered: 0 };
      score.sum += weight * value;
      score.covered += weight;
      scores.set(number, score);
    }
  });
  const whole = weights.reduce((sum, weight) => sum + weight, 0);
  const results = [];
  const onPage = new Map(); // how much a page's sections say of it together
  for (const [number, { sum, covered }] of scores) {
    const entry = index.entries[number];
    const share = covered / whole;
    let score = sum * share * share * (1 + closeness(entry, meant, weights, whole));
    score *= entry.page.weight * KIND[entry.kind];
    results.push({ entry, score });
    if (entry.kind === "section") onPage.set(entry.page, (onPage.get(entry.page) ?? 0) + score);
  }
  const most = Math.max(...onPage.values(), 1e-9);
  for (const result of results) {
    const { kind, page } = result.entry;
    if (kind === "section") result.score *= 1 + (0.5 * onPage.get(page)) / most;
  }
  results.sort((one, other) => other.score - one.score);
  const least = results.length ? results[0].score * 0.08 : 0;
  return {
    results: results.filter(({ score }) => score >= least),
    meant: meant.join(" "),
    words: shown,
  };
}

/** How much is added where the words stand together, as asked, and where they are the title. */
function closeness(entry, asked, weights, whole) {
  entry.names ??= namesOf(entry).map((name) => inARow(wordsOf(name)).slice(0, -1));
  entry.stems ??= { title: inARow(entry.words.title), text: inARow(entry.words.text) };
  const { title, text } = entry.stems;
  const phrase = inARow(asked).slice(0, -1); // the last word may go on
  let more = 0;
  if (entry.names.some((name) => name === phrase)) more += 1;
  else if (title.startsWith(phrase)) more += 0.5;
  if (asked.length < 2) return more;
  if (title.includes(phrase)) more += 1;
  else if (phrase.trim().split(" ").every((stem) => title.includes(` ${stem}`))) more += 0.3;
  if (text.includes(phrase)) more += 0.5;
  const at = asked.map((word, number) => number).filter((number) => !GLUE.has(asked[number]));
  for (let pair = 0; pair + 1 < at.length; pair++) {
    const [one, other] = [at[pair], at[pair + 1]];
    const share = (weights[one] + weights[other]) / (2 * whole);
    const words = inARow([asked[one], asked[other]]).slice(0, -1);
    if (title.includes(words)) more += 0.6 * share;
    if (text.includes(words)) more += 0.4 * share;
  }
  return more;
}

/** What an entry is called: a term has several names, a member of the package a long one. */
function namesOf({ kind, title }) {
  return kind === "term" ? title.split(", ") : kind === "name" ? title.split(".") : [title];
}

/** The stems of words, without those that only join others, in one text to look into. */
function inARow(words) {
  return ` ${words.filter((word) => !GLUE.has(word)).map(stemOf).join(" ")} `;
}

/** Numbers, words, and what stands between them. */
const PIECES = /\d+(?:[.,]\d+)+|[\p{L}\p{N}\p{M}_'’]+|[^\p{L}\p{N}\p{M}_'’]+/gu;

/**
 * A piece of a text around the words that were found: [text, is it a word that was found][].
 */
export function snippet(text, words, length = 150) {
  const pieces = text.match(PIECES) ?? [];
  const isFound = pieces.map((piece) => wordsOf(piece).some((word) => words.has(word)));
  const rare = (piece) => Math.min(piece.length, 8);
  let best = 0, most = -1, end = 0, size = 0, value = 0;
  for (let start = 0; start < pieces.length; start++) {
    while (end < pieces.length && size + pieces[end].length <= length) {
      size += pieces[end].length;
      value += isFound[end] ? rare(pieces[end]) : 0;
      end += 1;
    }
    const fresh = start === 0 || /[.?!:]\s$/.test(pieces[start - 1]) ? 4 : 0; // a sentence begins
    // Of two pieces that show as much, the one that comes to the point sooner.
    if (value && value + fresh >= most) [best, most] = [start, value + fresh];
    size -= pieces[start].length;
    value -= isFound[start] ? rare(pieces[start]) : 0;
  }
  const shown = [];
  let used = 0;
  for (let at = best; at < pieces.length && used + pieces[at].length <= length; at++) {
    used += pieces[at].length;
    shown.push([pieces[at], isFound[at]]);
  }
  if (best > 0) shown.unshift(["… ", false]);
  if (best + shown.length < pieces.length) shown.push([" …", false]);
  return shown;
}
