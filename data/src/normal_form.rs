//! Names that look alike and are written in different bytes: "é" may be one character or an "e" with an accent behind it.
//! macOS stores the latter (normal form D), most others the former (C).
//!
//! `normal_form.txt` has a line for each mark: the mark, its combining class, and `base=composed` for every character that is
//! a base with that mark (canonical decompositions of Unicode 14 that are not excluded from composition, in hexadecimal).
//! Korean syllables are composed by arithmetic.

use std::{collections::HashMap, sync::LazyLock};

static PAIRS: LazyLock<Pairs> = LazyLock::new(Pairs::read);

/// Marks with a class of their own, and what each makes of its base.
#[derive(Default)]
struct Pairs {
    classes: HashMap<char, u8>,
    composed: HashMap<(char, char), char>,
    decomposed: HashMap<char, (char, char)>,
}

/// First characters of Korean syllables, of their leading consonants, vowels, and (one before the first) last consonants,
/// and how many there are of each.
const SYLLABLES: u32 = 0xac00;
const LEADS: u32 = 0x1100;
const VOWELS: u32 = 0x1161;
const TAILS: u32 = 0x11a7;
const COUNTS: [u32; 3] = [19, 21, 28];

impl Pairs {
    fn read() -> Self {
        let mut pairs = Pairs::default();
        let character = |hex: &str| u32::from_str_radix(hex, 16).ok().and_then(char::from_u32);
        for line in include_str!("normal_form.txt").lines() {
            let mut fields = line.split(' ');
            let mut next = || fields.next().unwrap_or_default();
            let (Some(mark), Ok(class)) = (character(next()), next().parse()) else { continue };
            pairs.classes.insert(mark, class);
            for (base, composed) in fields.filter_map(|pair| pair.split_once('=')) {
                let (Some(base), Some(composed)) = (character(base), character(composed)) else { continue };
                pairs.composed.insert((base, mark), composed);
                pairs.decomposed.insert(composed, (base, mark));
            }
        }
        pairs
    }

    fn class(&self, character: char) -> u8 {
        self.classes.get(&character).copied().unwrap_or(0)
    }

    fn decompose(&self, character: char, into: &mut Vec<char>) {
        if let Some((first, second)) = self.decomposed.get(&character).copied().or_else(|| jamo(character)) {
            self.decompose(first, into);
            self.decompose(second, into);
        } else {
            into.push(character);
        }
    }

    fn compose(&self, first: char, second: char) -> Option<char> {
        self.composed.get(&(first, second)).copied().or_else(|| syllable(first, second))
    }
}

/// A Korean syllable as two parts.
fn jamo(syllable: char) -> Option<(char, char)> {
    let [_, vowels, tails] = COUNTS;
    let index = u32::from(syllable).checked_sub(SYLLABLES).filter(|index| *index < COUNTS.iter().product())?;
    let (first, second) = match index % tails {
        0 => (LEADS + index / tails / vowels, VOWELS + index / tails % vowels),
        tail => (SYLLABLES + index - tail, TAILS + tail),
    };
    Some((char::from_u32(first)?, char::from_u32(second)?))
}

/// Two parts as a Korean syllable.
fn syllable(first: char, second: char) -> Option<char> {
    let [leads, vowels, tails] = COUNTS;
    let place = |character: char, from: u32, count: u32| u32::from(character).checked_sub(from).filter(|i| *i < count);
    if let (Some(lead), Some(vowel)) = (place(first, LEADS, leads), place(second, VOWELS, vowels)) {
        return char::from_u32(SYLLABLES + (lead * vowels + vowel) * tails);
    }
    let open = place(first, SYLLABLES, COUNTS.iter().product()).filter(|index| index % tails == 0)?;
    let tail = place(second, TAILS, tails).filter(|&tail| tail > 0)?;
    char::from_u32(SYLLABLES + open + tail)
}

/// `name` in normal form C.
pub(crate) fn composed(name: &str) -> String {
    if name.is_ascii() {
        return name.to_owned();
    }
    let mut parts = Vec::new();
    name.chars().for_each(|character| PAIRS.decompose(character, &mut parts));
    // Marks of one base stand in the order of their classes.
    for run in parts.chunk_by_mut(|a, b| (PAIRS.class(*a) == 0) == (PAIRS.class(*b) == 0)) {
        if PAIRS.class(run[0]) > 0 {
            run.sort_by_key(|mark| PAIRS.class(*mark));
        }
    }
    let mut result: Vec<char> = Vec::new();
    // Where the last base is, and the class of what came after it.
    let (mut base, mut last) = (None, 0);
    for character in parts {
        let class = PAIRS.class(character);
        let made = base.filter(|_| last == 0 || last < class);
        let made = made.and_then(|at: usize| Some((at, PAIRS.compose(result[at], character)?)));
        match made {
            Some((at, character)) => result[at] = character,
            None => {
                if class == 0 {
                    base = Some(result.len());
                }
                last = class;
                result.push(character);
            }
        }
    }
    result.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Right values from another implementation, in both forms.
    #[test]
    fn both_forms_become_one() {
        for (composed_form, decomposed_form) in [
            ("plain", "plain"),
            ("caf\u{e9}", "cafe\u{301}"),
            ("\u{c5}ngstr\u{f6}m", "A\u{30a}ngstro\u{308}m"),
            // Vietnamese: two marks, below and above.
            ("Vi\u{1ec7}t", "Vie\u{323}\u{302}t"),
            // Marks out of order; and one that stays a character of its own.
            ("\u{1e69}", "s\u{307}\u{323}"),
            ("q\u{323}\u{307}", "q\u{307}\u{323}"),
            ("\u{e7}\u{323}", "c\u{323}\u{327}"),
            // Greek, Cyrillic, Japanese, Korean.
            ("\u{3ac}\u{1f84}", "\u{3b1}\u{301}\u{3b1}\u{313}\u{301}\u{345}"),
            ("\u{439}", "\u{438}\u{306}"),
            ("\u{304c}\u{30d1}", "\u{304b}\u{3099}\u{30cf}\u{309a}"),
            ("\u{d55c}\u{ae00}\u{ac00}", "\u{1112}\u{1161}\u{11ab}\u{1100}\u{1173}\u{11af}\u{1100}\u{1161}"),
            ("\u{9cb}", "\u{9c7}\u{9be}"),
        ] {
            assert_eq!(composed(composed_form), composed_form);
            assert_eq!(composed(decomposed_form), composed_form);
        }
        assert_ne!(composed("caf\u{e9}"), composed("cafe"));
        // A mark is not composed over another of its class, but over one of a lower class.
        assert_eq!(composed("a\u{323}\u{323}\u{302}"), "\u{1ead}\u{323}");
    }

    #[test]
    fn every_pair_is_there_once() {
        assert_eq!((PAIRS.composed.len(), PAIRS.decomposed.len(), PAIRS.classes.len()), (941, 941, 63));
        for (&character, &(base, mark)) in &PAIRS.decomposed {
            let apart: String = [base, mark].into_iter().collect();
            assert_eq!(composed(&apart), character.to_string());
        }
    }
}
