//! Files that were made to be expensive.

use super::*;

/// An ELF file for this processor with these sections (name, type, link, address, contents), and one page of code.
fn sections(list: &[(&str, u32, u32, u64, &[u8])]) -> Vec<u8> {
    const PAGE: u64 = 0x1000;
    let machine: u16 = if cfg!(target_arch = "x86_64") { 62 } else { 183 };
    let mut names = b"\0".to_vec();
    let mut body = vec![0xc3; PAGE as usize];
    let mut headers = vec![0; 64];
    let mut header = |name: &str, kind: u32, link: u32, address: u64, contents: &[u8], body: &mut Vec<u8>| {
        let words = [6, address, PAGE + body.len() as u64, contents.len() as u64];
        headers.extend((names.len() as u32).to_le_bytes());
        headers.extend(kind.to_le_bytes());
        words.iter().for_each(|word: &u64| headers.extend(word.to_le_bytes()));
        headers.extend(link.to_le_bytes());
        headers.extend(1u32.to_le_bytes());
        headers.extend(8u64.to_le_bytes());
        headers.extend(24u64.to_le_bytes());
        names.extend(name.bytes().chain([0]));
        body.extend(contents);
        body.resize(body.len().next_multiple_of(8), 0);
    };
    for (name, kind, link, address, contents) in list {
        header(name, *kind, *link, *address, contents, &mut body);
    }
    let all = [&names[..], b".names\0"].concat();
    let count = list.len() as u16 + 2;
    let names_at = PAGE + body.len() as u64;
    body.extend(&all);
    body.resize(body.len().next_multiple_of(8), 0);
    headers.extend(((all.len() - 7) as u32).to_le_bytes());
    headers.extend(3u32.to_le_bytes());
    [0, 0, names_at, all.len() as u64].iter().for_each(|word: &u64| headers.extend(word.to_le_bytes()));
    headers.extend([0; 8]);
    headers.extend([8, 0].iter().flat_map(|word: &u64| word.to_le_bytes()));

    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    [3, machine].iter().for_each(|half: &u16| file.extend(half.to_le_bytes()));
    file.extend(1u32.to_le_bytes());
    [0, 64, PAGE + body.len() as u64].iter().for_each(|word: &u64| file.extend(word.to_le_bytes()));
    file.extend(0u32.to_le_bytes());
    [64, 56, 1, 64, count, count - 1].iter().for_each(|half: &u16| file.extend(half.to_le_bytes()));
    [1u32, 5].iter().for_each(|word| file.extend(word.to_le_bytes()));
    [PAGE; 6].iter().for_each(|word| file.extend(word.to_le_bytes()));
    file.resize(PAGE as usize, 0);
    file.extend(body);
    file.extend(headers);
    file
}

#[test]
fn symbols_that_share_a_very_long_name_take_linear_time() {
    let symbol = |name: u32| {
        let mut bytes = name.to_le_bytes().to_vec();
        bytes.extend([0x12, 0, 1, 0]);
        bytes.extend(0x1000u64.to_le_bytes());
        bytes.extend(16u64.to_le_bytes());
        bytes
    };
    // 40 GB, if each name were read to its end.
    let symbols: Vec<u8> = (0..40_000).flat_map(|_| symbol(1)).collect();
    let names = [b"\0", &vec![b'A'; 1_000_000][..], b"\0"].concat();
    let long = sections(&[(".dynsym", 11, 2, 0, &symbols), (".dynstr", 3, 0, 0, &names)]);
    assert_eq!(classify_data(&long), Err(NotTls::NoSymbols));
    // Nor has it run out of time.
    let deadline = bounded::Deadline::start();
    let image = image::Image::parse(&long[..], deadline).unwrap();
    assert_eq!(elf::own_tables(&image).iter().flat_map(|table| table.names()).count(), 0);
    assert!(!deadline.is_over());
    // The file is read: with a name of interest it is a library's.
    let mut found = sections(&[
        (".dynsym", 11, 2, 0, &[symbol(1), symbol(10)].concat()),
        (".dynstr", 3, 0, 0, b"\0SSL_read\0SSL_write\0"),
    ]);
    assert!(classify_data(&found).is_ok());
    found[0] = 0;
    assert_eq!(classify_data(&found), Err(NotTls::NotElf));
}

#[test]
fn tables_of_relocations_are_bounded_together_whatever_they_say() {
    let entry: Vec<u8> = [0x1000u64, 8, 0x1000].iter().flat_map(|word| word.to_le_bytes()).collect();
    let pointers = |entries: usize| {
        // The same place again and again.
        let table = entry.repeat(entries);
        let file = sections(&[(".rela.a", 4, 0, 0, &table), (".rela.b", 4, 0, 0, &table)]);
        image::Image::parse(&file[..], bounded::Deadline::start()).unwrap().pointers().len()
    };
    assert_eq!(pointers(10), 1);
    assert_eq!(pointers(1 << 20), 0);
}

#[test]
fn a_section_at_the_end_of_all_addresses_is_no_endless_table() {
    let folder = tempfile::tempdir().unwrap();
    let file = compile(folder.path(), "nss.so", &nss(KEPT), &SHARED);
    let good = std::fs::read(&file).unwrap();
    assert!(classify_data(&good).is_ok());
    let word = |at: usize| u64::from_le_bytes(good[at..at + 8].try_into().unwrap()) as usize;
    let headers = word(0x28);
    for at in (headers..good.len()).step_by(64) {
        for address in [u64::MAX, u64::MAX - 7, u64::MAX - 8, u64::MAX << 20] {
            let mut bad = good.clone();
            bad[at + 16..at + 24].copy_from_slice(&address.to_le_bytes());
            let _ = classify_data(&bad);
        }
    }
}
