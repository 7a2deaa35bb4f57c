//! The rules of a redaction, from options, a file of rules and a key.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::config::Redaction;
use crate::failure::{Exit, Failure};
use crate::redact::{Engine, Key, Rules};
use crate::synth::Selection;

/// Fewest bytes of a key file: those of the key that is made of it.
const KEY_MIN: usize = 16;

/// An engine that works as the user wants.
///
/// # Errors
/// A [`Failure`] for the user: a file cannot be read, or a rule makes no sense.
pub fn engine(config: &Redaction) -> Result<Engine, Failure> {
    Ok(Engine::new(rules(config)?))
}

/// The same for a capture that is redacted while it is made.
///
/// # Errors
/// The same, and if connections are to be chosen by what is replaced before they are.
pub fn live_engine(config: &Redaction, selection: &Selection) -> Result<Engine, Failure> {
    let engine = engine(config)?;
    if engine.rules().have_pseudonyms() && selection.filter.is_some() {
        return Err(Failure::new(
            Exit::Usage,
            "a filter does not see addresses and names that have pseudonyms",
            "leave the filter out, or capture with it and give the file to tls2pcap redact",
        ));
    }
    Ok(engine)
}

pub(super) fn rules(config: &Redaction) -> Result<Rules, Failure> {
    let key = match &config.key {
        Some(path) => key(path)?,
        None => Key(fresh_key()?),
    };
    let mut rules = config.rules.clone();
    if let Some(path) = &config.file {
        let name = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::new(Exit::Io, format!("rules {name}: {error}"), "give a text file that can be read")
        })?;
        rules.add_file(&text).map_err(|error| {
            Failure::new(
                Exit::Usage,
                format!("rules {name}: {error}"),
                "write one rule a line, as: field nickname",
            )
        })?;
    }
    let whose = if config.file.is_some() { "--pattern, or one of the rules" } else { "--pattern" };
    rules.build(key).map_err(|error| {
        Failure::new(Exit::Usage, format!("{whose}: {error}"), "write it as the crate regex does")
    })
}

/// A key that nobody has had.
///
/// # Errors
/// A [`Failure`] for the user: there is no source of random numbers.
pub(crate) fn fresh_key() -> Result<[u8; KEY_MIN], Failure> {
    let mut bytes = [0; KEY_MIN];
    let random = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    random.map_err(|error| {
        Failure::new(Exit::Io, format!("/dev/urandom: {error}"), "give a key with --key FILE")
    })?;
    Ok(bytes)
}

fn key(path: &Path) -> Result<Key, Failure> {
    let bytes = std::fs::read(path).map_err(|error| {
        Failure::new(Exit::Io, format!("--key {}: {error}", path.display()), "give a file that can be read")
    })?;
    if bytes.len() < KEY_MIN {
        return Err(Failure::new(
            Exit::Usage,
            format!("--key {}: {} bytes are too few to be a key", path.display(), bytes.len()),
            format!("make one: head -c 32 /dev/urandom >{}", path.display()),
        ));
    }
    let hash = Sha256::digest(&bytes);
    Ok(Key(hash.first_chunk().copied().unwrap_or_default()))
}
