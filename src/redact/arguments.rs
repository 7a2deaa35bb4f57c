//! Masks what looks like a secret in a command line.

/// Stands for a secret. Its length says nothing about the secret's.
const MASK: &str = "***";

/// Options whose value is a secret for every program, with or without `=` before the value.
const OPTIONS: &[&str] =
    &["--user", "--proxy-user", "--oauth2-bearer", "--pass", "--cookie", "--aws-sigv4", "--http-password"];

/// A name that contains one of these, as a word, means a secret.
pub(super) const NAMES: &[&str] = &[
    "password",
    "passwd",
    "passphrase",
    "pass",
    "pwd",
    "pw",
    "secret",
    "secrets",
    "token",
    "apikey",
    "auth",
    "authorization",
    "credential",
    "credentials",
    "bearer",
    "cookie",
    "session",
    "sessionid",
    "sid",
    "signature",
    "sig",
    "privatekey",
    "accesskey",
    "pgpassword",
    "mysqlpwd",
    "jwt",
    "otp",
    "pin",
    "psk",
    "passin",
    "passout",
];

/// Words that mean a secret if they end in one of these, as `DBPASSWORD`.
pub(super) const ENDS: &[&str] = &["password", "passwd", "passphrase", "secret", "token", "apikey"];

/// `key` is a secret only together with the word before it.
const KEYS: &[&str] = &[
    "api",
    "access",
    "private",
    "secret",
    "auth",
    "account",
    "encryption",
    "signing",
    "master",
    "subscription",
];

/// Programs that take a password directly after `-p`.
const P_ATTACHED: &[&str] = &[
    "mysql",
    "mysqldump",
    "mysqladmin",
    "mysqlimport",
    "mysqlshow",
    "mariadb",
    "mariadb-dump",
    "mariadb-admin",
    "sshpass",
    "7z",
    "7za",
];

/// Programs whose short option with a value of its own is a secret.
const SHORT: &[(&str, &[&str])] = &[
    ("curl", &["-u", "-U", "-b"]),
    ("redis-cli", &["-a"]),
    ("sshpass", &["-p"]),
    ("mongo", &["-p"]),
    ("mongosh", &["-p"]),
    ("mosquitto_pub", &["-P"]),
    ("mosquitto_sub", &["-P"]),
    ("ldapsearch", &["-w"]),
    ("ldapmodify", &["-w"]),
    ("docker", &["-p"]),
    ("podman", &["-p"]),
    ("sqlcmd", &["-P"]),
    ("smbclient", &["-U"]),
    ("ab", &["-A", "-P", "-C"]),
];

/// HTTP headers whose value is a secret.
const HEADERS: &[&str] = &["authorization", "proxy-authorization", "cookie", "set-cookie"];

/// The arguments (`argv[0]` first) with `***` for every value that looks like a secret: values of
/// options, environment assignments, HTTP headers, form fields and URL parameters with a telling
/// name, and user information in URLs. The number of arguments stays the same.
///
/// Errs on the side of masking; what has no telling name cannot be found.
pub fn arguments(args: &[String]) -> Vec<String> {
    let mut program = args.first().map_or("", |arg| file_name(arg));
    let mut mask_next = false;
    let mut out = Vec::with_capacity(args.len());
    for arg in args {
        // `sudo -u x mysql …`: a later word can be the program that counts.
        if !arg.starts_with('-') && !mask_next && is_program(file_name(arg)) {
            program = file_name(arg);
        }
        let short = SHORT.iter().find(|(name, _)| *name == program).map_or(&[][..], |(_, short)| *short);
        if std::mem::take(&mut mask_next) {
            out.push(MASK.to_owned());
        } else if short.contains(&arg.as_str()) {
            mask_next = true;
            out.push(arg.clone());
        } else if let Some(option) = short.iter().find(|option| arg.starts_with(**option)) {
            out.push(format!("{option}{MASK}"));
        } else if let Some(at) = (program == "curl").then(|| curl_cluster(arg)).flatten() {
            mask_next = at == arg.len();
            out.push(format!("{}{}", &arg[..at], if mask_next { "" } else { MASK }));
        } else if P_ATTACHED.contains(&program) && arg.starts_with("-p") && arg.len() > 2 {
            out.push(format!("-p{MASK}"));
        } else if arg.starts_with('-') && !arg.contains(['=', ' ', ':']) {
            mask_next = is_secret_option(arg);
            out.push(arg.clone());
        } else {
            mask_next = arg.eq_ignore_ascii_case("bearer");
            out.push(value(arg));
        }
    }
    out
}

/// Where the secret begins in options given together, as in `-sSu me:password`.
fn curl_cluster(arg: &str) -> Option<usize> {
    const FLAGS: &str = "0123456#afgGiIjJklLMnNOpqRsSvZ";
    let letters = arg.strip_prefix('-')?;
    let at = letters.find(|c| !FLAGS.contains(c))?;
    matches!(letters.as_bytes()[at], b'u' | b'U' | b'b').then_some(at + 2)
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn is_program(name: &str) -> bool {
    P_ATTACHED.contains(&name) || SHORT.iter().any(|(program, _)| *program == name)
}

fn is_secret_option(option: &str) -> bool {
    // One letter says nothing, and `-pw` or `--pass-through` are no names of secrets alone.
    OPTIONS.contains(&option) || (option.starts_with("-") && option.len() > 2 && is_secret_name(option))
}

/// A name, of an option, a variable, a parameter or a field, that announces a secret.
pub(super) fn is_secret_name(name: &str) -> bool {
    // Words end at anything that is no letter or digit, and at capitals: `dbPassword`, `api-key`.
    let mut words: Vec<String> = Vec::new();
    let mut previous = ' ';
    for c in name.chars().take(128) {
        let begins = !previous.is_alphanumeric() || (previous.is_lowercase() && c.is_uppercase());
        if c.is_alphanumeric() {
            if begins {
                words.push(String::new());
            }
            if let Some(word) = words.last_mut() {
                word.extend(c.to_lowercase());
            }
        }
        previous = c;
    }
    // A file or a command that has the secret is not the secret.
    if matches!(
        words.last().map(String::as_str),
        Some("file" | "path" | "stdin" | "env" | "fd" | "type" | "url")
    ) {
        return false;
    }
    words.iter().any(|w| NAMES.contains(&w.as_str()) || ENDS.iter().any(|end| w.ends_with(end)))
        || words.windows(2).any(|w| KEYS.contains(&w[0].as_str()) && matches!(w[1].as_str(), "key" | "keys"))
}

/// Masks the secret parts of one argument.
fn value(arg: &str) -> String {
    let prefix = ["-H", "--header=", "--proxy-header="].into_iter().find(|prefix| arg.starts_with(prefix));
    let (option, field) = arg.split_at(prefix.map_or(0, str::len));
    if let Some((name, rest)) = field.split_once(':') {
        let header = name.trim().to_ascii_lowercase();
        let letter = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        let sound = !header.is_empty() && header.bytes().all(letter) && !rest.starts_with("//");
        if sound && (HEADERS.contains(&header.as_str()) || is_secret_name(&header)) {
            return format!("{option}{name}: {MASK}");
        }
    }
    // Further inside, as in `http.extraHeader=Authorization: x`, nobody knows where the value ends.
    let lower = arg.to_ascii_lowercase();
    let header = HEADERS.iter().filter_map(|name| {
        let at = lower.find(name)? + name.len();
        lower[at..].starts_with(':').then_some(at + 1)
    });
    if let Some(at) = header.min() {
        return format!("{} {MASK}", &arg[..at]);
    }
    if arg.contains(char::is_whitespace) {
        // A command line within an argument, or a sentence: word by word.
        let words: Vec<String> = arg.split(char::is_whitespace).map(str::to_owned).collect();
        let spaces = arg.chars().filter(|c| c.is_whitespace()).map(Some).chain([None]);
        let words = arguments(&words).into_iter().zip(spaces);
        return words.flat_map(|(word, space)| word.chars().chain(space).collect::<Vec<_>>()).collect();
    }
    parameters(&user_info(arg))
}

/// `scheme://user:secret@host` anywhere in the text.
fn user_info(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (scheme, after) = rest.split_at(at + 3);
        out.push_str(scheme);
        let end = after.find(['/', '?', '#', '"', '\'', ',']).unwrap_or(after.len());
        match after[..end].rfind('@') {
            Some(at) => {
                out.push_str(MASK);
                rest = &after[at..];
            }
            None => rest = after,
        }
    }
    out.push_str(rest);
    out
}

/// `name=secret`, alone or in a list of parameters or fields.
fn parameters(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('=') {
        let (before, after) = (&rest[..at], &rest[at + 1..]);
        let name = before.rsplit(['?', '&', ';', ',', '#', '/', '{', '"']).next().unwrap_or(before);
        out.push_str(before);
        out.push('=');
        rest = after;
        let option = name.starts_with('-') && OPTIONS.contains(&name);
        if option || is_secret_name(name) {
            // The value of an option is all that follows; of a parameter, up to the next one.
            let end = if name.starts_with('-') { None } else { after.find(['&', ';', '#']) };
            out.push_str(MASK);
            rest = &after[end.unwrap_or(after.len())..];
        }
    }
    out.push_str(rest);
    json_fields(&out)
}

/// `"name":"secret"` of JSON given as an argument.
fn json_fields(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("\":") {
        let (before, after) = (&rest[..at], &rest[at + 2..]);
        out.push_str(before);
        out.push_str("\":");
        rest = after;
        if is_secret_name(before.rsplit('"').next().unwrap_or(before)) {
            let quoted = after.strip_prefix('"');
            let end = match quoted {
                Some(inner) => inner.find('"').map_or(after.len(), |end| end + 2),
                None => after.find([',', '}']).unwrap_or(after.len()),
            };
            out.push_str(MASK);
            rest = &after[end..];
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redacted(line: &str) -> String {
        let args: Vec<String> = line.split('|').map(str::to_owned).collect();
        let out = arguments(&args);
        assert_eq!(out.len(), args.len());
        out.join("|")
    }

    #[test]
    fn secrets_are_masked() {
        for (line, expected) in [
            ("curl|-u|me:pw|https://a", "curl|-u|***|https://a"),
            ("/usr/bin/curl|-ume:pw", "/usr/bin/curl|-u***"),
            ("curl|-sSu|me:pw|-v", "curl|-sSu|***|-v"),
            ("curl|-sume:pw|-v", "curl|-su***|-v"),
            (
                "git|-c|http.extraHeader=Authorization: Basic abc",
                "git|-c|http.extraHeader=Authorization: ***",
            ),
            ("x|say\tcurl\n-u\tme:pw", "x|say\tcurl\n-u\t***"),
            ("openssl|-passin|pass:abc", "openssl|-passin|***"),
            ("curl|--user|me:pw", "curl|--user|***"),
            ("curl|--user=me:pw", "curl|--user=***"),
            ("curl|-H|Authorization: Bearer abc", "curl|-H|Authorization: ***"),
            ("curl|-HAuthorization: Bearer abc", "curl|-HAuthorization: ***"),
            ("curl|-HAuthorization:abc|-s", "curl|-HAuthorization: ***|-s"),
            ("curl|-H|X-Api-Key: abc", "curl|-H|X-Api-Key: ***"),
            ("curl|-H|Cookie: a=b; c=d", "curl|-H|Cookie: ***"),
            ("curl|-b|sid=1", "curl|-b|***"),
            ("curl|-d|user=me&password=x&a=b", "curl|-d|user=me&password=***&a=b"),
            ("curl|https://me:pw@a.example/x", "curl|https://***@a.example/x"),
            ("curl|https://a/?access_token=abc&q=1", "curl|https://a/?access_token=***&q=1"),
            ("curl|https://a/?X-Amz-Signature=abc", "curl|https://a/?X-Amz-Signature=***"),
            (
                "curl|-d|{\"user\":\"me\",\"password\":\"x\",\"a\":1}",
                "curl|-d|{\"user\":\"me\",\"password\":***,\"a\":1}",
            ),
            ("x|--password=abc|-v", "x|--password=***|-v"),
            ("x|--password|abc|-v", "x|--password|***|-v"),
            ("x|--db-password|abc", "x|--db-password|***"),
            ("x|--token|abc", "x|--token|***"),
            ("x|--api-key=abc", "x|--api-key=***"),
            ("x|--client-secret|abc", "x|--client-secret|***"),
            ("mysql|-uroot|-phunter2|db", "mysql|-uroot|-p***|db"),
            ("sudo|mysqldump|-phunter2", "sudo|mysqldump|-p***"),
            ("redis-cli|-a|abc", "redis-cli|-a|***"),
            ("env|PGPASSWORD=abc|psql", "env|PGPASSWORD=***|psql"),
            ("env|AWS_SECRET_ACCESS_KEY=abc/d==|x", "env|AWS_SECRET_ACCESS_KEY=***|x"),
            ("env|dbPassword=abc|x", "env|dbPassword=***|x"),
            ("psql|postgres://me:pw@db/x?sslmode=require", "psql|postgres://***@db/x?sslmode=require"),
            ("sh|-c|curl -u me:pw https://b:c@a", "sh|-c|curl -u *** https://***@a"),
            ("sh|-c|PGPASSWORD=abc psql", "sh|-c|PGPASSWORD=*** psql"),
        ] {
            assert_eq!(redacted(line), expected);
        }
    }

    #[test]
    fn the_rest_stays_readable() {
        for line in [
            "curl|-sS|--http2|https://a.example/path?q=1&page=2",
            "curl|-H|Accept: text/html|-o|/dev/null|https://[::1]:8443/",
            "python3|-m|http.server|8000",
            "nginx: worker process",
            "ssh|-p|2222|host",
            "x|--password-file=/run/x|--token-path|/a|b",
            "x|--author|me|--keyboard=de|--monkey|1",
            "java|-Xmx1g|-Dfile.encoding=UTF-8|Main",
            "",
        ] {
            assert_eq!(redacted(line), line);
        }
        assert!(arguments(&[]).is_empty());
    }
}
