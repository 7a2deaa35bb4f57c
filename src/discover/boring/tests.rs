//! On real programs, where they are, and made ones.
use super::*;
#[test]
fn scratch() {
    let Some(list) = std::env::var_os("BORING") else { return };
    for path in std::env::split_paths(&list) {
        let data = std::fs::read(&path).unwrap();
        let image = Image::parse(&data[..]).ok().unwrap();
        let before = std::time::Instant::now();
        match find(&image) {
            Ok(entries) => {
                print!("{} {:?}:", path.display(), before.elapsed());
                for (f, place) in entries.offsets.places() {
                    print!(" {}={:x}", f.symbol(), place.function);
                }
                println!(" bio={:x?}", entries.bio);
            }
            Err(why) => println!("{}: {why} {:?}", path.display(), before.elapsed()),
        }
    }
}
