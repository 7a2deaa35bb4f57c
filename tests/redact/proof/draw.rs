//! Secrets drawn from a seed, and an index that finds any part of any of them in whatever form.

use std::collections::HashMap;

/// Numbers from a seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }

    pub fn one_of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }
}

/// No letter of these is one that replacements are made of, so nothing that looks like a part of a secret is one by chance.
const LETTERS: &[u8] = b"beghijklmnoprstuvwyzABCEGHIJKLMNOPQRSTUVWY035689";
const HEXADECIMAL: &[u8] = b"be035689";

/// Draws secrets, and remembers them.
pub struct Draw {
    pub random: Random,
    /// All that must not be seen, and what it was planted as.
    pub planted: Vec<(String, Vec<u8>)>,
    pub label: String,
}

impl Draw {
    pub fn new(seed: u64) -> Draw {
        Draw { random: Random::new(seed), planted: Vec::new(), label: String::new() }
    }

    fn letters(&mut self, set: &[u8], len: usize) -> String {
        (0..len).map(|_| char::from(set[self.random.below(set.len())])).collect()
    }

    fn remember(&mut self, secret: &str) {
        self.planted.push((self.label.clone(), secret.as_bytes().to_vec()));
    }

    /// Letters and digits.
    pub fn secret(&mut self) -> String {
        let secret = self.letters(LETTERS, 20);
        self.remember(&secret);
        secret
    }

    pub fn long(&mut self, len: usize) -> String {
        let secret = self.letters(LETTERS, len);
        self.remember(&secret);
        secret
    }

    pub fn hexadecimal(&mut self) -> String {
        let secret = self.letters(HEXADECIMAL, 32);
        self.remember(&secret);
        secret
    }

    /// Two secrets in one value, and what is between them: one of these.
    pub fn joined<'a>(&mut self, joints: &[&'a str]) -> (String, &'a str, String) {
        let joint = self.random.one_of(joints);
        (self.letter_first(), joint, self.letter_first())
    }

    fn letter_first(&mut self) -> String {
        let secret = format!("h{}", self.letters(LETTERS, 11));
        self.remember(&secret);
        secret
    }

    /// A number of a payment card, in one of its spellings.
    pub fn card(&mut self) -> String {
        let (begin, len) = [("4539", 16), ("5432", 16), ("3782", 15), ("6011", 16)][self.random.below(4)];
        let mut digits: Vec<u32> = begin.bytes().map(|b| u32::from(b - b'0')).collect();
        while digits.len() < len {
            digits.push(self.random.below(10) as u32);
        }
        // Luhn's check.
        let sum: u32 = digits[..len - 1]
            .iter()
            .rev()
            .enumerate()
            .map(|(i, d)| {
                if i % 2 == 1 {
                    *d
                } else if *d > 4 {
                    d * 2 - 9
                } else {
                    d * 2
                }
            })
            .sum();
        digits[len - 1] = (10 - sum % 10) % 10;
        let between = self.random.one_of(&["", "", " ", "-"]);
        let mut card = String::new();
        for (i, digit) in digits.iter().enumerate() {
            if i > 0 && i % 4 == 0 {
                card += between;
            }
            card.push(char::from(b'0' + *digit as u8));
        }
        self.remember(&card);
        card
    }
}

/// Names of fields that mean a secret.
pub fn field_name(d: &mut Draw) -> &'static str {
    d.random.one_of(&[
        "password",
        "passwd",
        "access_token",
        "refresh_token",
        "client_secret",
        "api_key",
        "apiKey",
        "secret",
        "token",
        "id_token",
        "sessionId",
        "csrf_token",
        "private_key",
        "otp",
        "accessKey",
        "userPassword",
        "DB_PASSWORD",
        "auth",
        "X-Amz-Signature",
        "sig",
        "SAMLResponse",
        "credential",
        "cvv",
        "pwd",
    ])
}

/// One of each kind that has a prefix, with a source in src/redact/patterns.rs.
pub fn token(d: &mut Draw) -> String {
    let prefix = d.random.one_of(&[
        "ghp_",
        "gho_",
        "ghu_",
        "ghs_",
        "ghr_",
        "github_pat_",
        "glpat-",
        "gldt-",
        "glrt-",
        "AKIA",
        "ASIA",
        "AIza",
        "GOCSPX-",
        "ya29.",
        "xoxb-",
        "xoxp-",
        "xapp-",
        "sk_live_",
        "rk_live_",
        "whsec_",
        "npm_",
        "pypi-",
        "rubygems_",
        "sk-ant-",
        "sk-",
        "hf_",
        "dop_v1_",
        "SG.",
        "SK0",
        "shpat_",
        "dckr_pat_",
        "hvs.",
        "dapi",
        "glsa_",
        "lin_api_",
        "ATATT3",
        "sq0atp-",
        "AGE-SECRET-KEY-1",
        "sntrys_",
    ]);
    format!("{prefix}{}", d.long(72))
}

/// A JSON Web Token.
pub fn jwt(d: &mut Draw) -> String {
    let claims = format!("{{\"sub\":\"{}\"}}", d.secret());
    format!("eyJhbGciOiJIUzI1NiJ9.{}.{}", base64(claims.as_bytes()).replace('=', ""), d.long(43))
}

/// Base64 (RFC 4648).
pub fn base64(bytes: &[u8]) -> String {
    super::super::base64(bytes)
}

/// A part of a secret that counts: whoever sees so much of it sees too much.
const PART: usize = 8;
/// The same in digits, or in hexadecimal digits of it.
const LONG_PART: usize = 16;
const DIGITS_PART: usize = 12;

/// Finds secrets.
pub struct Index {
    /// By how long a part is: its bytes, and whose it is.
    parts: [(usize, HashMap<u128, u32>); 3],
    /// Most bytes are the end of no part.
    maybe: [Vec<u64>; 3],
    labels: Vec<String>,
}

fn hash(word: u128) -> usize {
    (((word ^ (word >> 64)) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 42) as usize
}

impl Index {
    pub fn new(planted: &[(String, Vec<u8>)]) -> Index {
        let mut index = Index {
            parts: [PART, DIGITS_PART, LONG_PART].map(|len| (len, HashMap::new())),
            maybe: [(); 3].map(|()| vec![0; 1 << 16]),
            labels: planted.iter().map(|(label, _)| label.clone()).collect(),
        };
        for (i, (_, secret)) in planted.iter().enumerate() {
            let which = usize::from(secret.iter().all(|b| b.is_ascii_digit() || b" -".contains(b)));
            index.add(which, secret, i);
            let hex: String = secret.iter().map(|b| format!("{b:02x}")).collect();
            index.add(2, hex.as_bytes(), i);
            // In each of the three places where it may begin in a group.
            for begin in 0..3 {
                let code = base64(&[&[0; 2][..begin], secret].concat());
                let (from, to) = ((begin * 8).div_ceil(6), (begin + secret.len()) * 8 / 6);
                index.add(if which == 1 { 2 } else { 0 }, &code.as_bytes()[from..to], i);
            }
        }
        index
    }

    fn add(&mut self, which: usize, text: &[u8], whose: usize) {
        let (len, parts) = &mut self.parts[which];
        for part in text.windows(*len) {
            let word = part.iter().fold(0, |word, b| word << 8 | u128::from(*b));
            parts.insert(word, whose as u32);
            let hash = hash(word);
            self.maybe[which][hash / 64] |= 1 << (hash % 64);
        }
    }

    /// Secrets of which bytes show a part, with what is around each.
    pub fn seen_in(&self, bytes: &[u8]) -> Vec<(String, String)> {
        let mut seen = self.look(bytes, |_| true, 0..3);
        // Zeros may be between the letters of UTF-16, and something else between hexadecimal digits.
        seen.extend(self.look(bytes, |b| b != 0, 0..1));
        seen.extend(self.look(bytes, |b| !b":% ".contains(&b), 2..3));
        seen.sort();
        seen.dedup_by(|a, b| a.0 == b.0);
        seen
    }

    fn look(
        &self,
        bytes: &[u8],
        counts: impl Fn(u8) -> bool,
        which: std::ops::Range<usize>,
    ) -> Vec<(String, String)> {
        let mut seen = Vec::new();
        let mut last = u32::MAX;
        let mut word = 0u128;
        for (at, byte) in bytes.iter().enumerate().filter(|(_, b)| counts(**b)) {
            let byte = if which.start == 2 { byte.to_ascii_lowercase() } else { *byte };
            word = word << 8 | u128::from(byte);
            for i in which.clone() {
                let (len, parts) = &self.parts[i];
                let part = if *len == 16 { word } else { word & ((1 << (8 * len)) - 1) };
                let hash = hash(part);
                if self.maybe[i][hash / 64] & 1 << (hash % 64) == 0 {
                    continue;
                }
                if let Some(whose) = parts.get(&part).filter(|whose| **whose != last) {
                    last = *whose;
                    let near = &bytes[at.saturating_sub(120)..bytes.len().min(at + 40)];
                    let near = near.iter().map(|b| if b.is_ascii_control() { '.' } else { char::from(*b) });
                    seen.push((self.labels[*whose as usize].clone(), near.collect()));
                }
            }
        }
        seen
    }
}
