use super::*;
use proptest::prelude::*;

fn one(target: &str) -> String {
    match Readings::of(target.as_bytes(), PathCase::Sensitive) {
        Readings::One(path) => String::from_utf8(path.into_owned()).unwrap(),
        other => panic!("{target}: {other:?}"),
    }
}

fn several(target: &str) -> Vec<String> {
    match Readings::of(target.as_bytes(), PathCase::Sensitive) {
        Readings::Several(paths) => paths.into_iter().map(|path| String::from_utf8(path).unwrap()).collect(),
        other => panic!("{target}: {other:?}"),
    }
}

#[test]
fn an_ordinary_path_has_one_reading_without_query_and_trailing_slash() {
    assert_eq!(one("/"), "/");
    assert_eq!(one("/a/b.c"), "/a/b.c");
    assert_eq!(one("/a/b/?x=/../%zz"), "/a/b");
    assert_eq!(one("/a/..b/.c"), "/a/..b/.c");
    assert_eq!(one("*"), "*");
}

#[test]
fn harmless_percent_encoding_is_decoded() {
    assert_eq!(one("/caf%C3%A9/a%20b"), "/café/a b");
    assert_eq!(one("/u%40x.example"), "/u@x.example");
    assert_eq!(one("/100%25"), "/100%");
}

#[test]
fn each_of_two_encoded_ends_shows_the_path_before_it() {
    for target in ["/x/a%3Fb/s%23z", "/x/a%23b/s%3Fz", "/x/a%253Fb/s%2523z"] {
        let pattern = PathPattern::parse("/x/{*}/s", PathCase::Sensitive).unwrap();
        let found = several(target);
        assert!(found.iter().any(|path| pattern.matches(path.as_bytes())), "{target}: {found:?}");
    }
}

#[test]
fn every_trick_shows_the_path_that_it_hides() {
    for target in [
        "/x/../admin",
        "/x/..;/admin",
        "/x/..;a=b/admin",
        "//admin",
        "/./admin",
        "/admin/.",
        "/%61dmin",
        "/%2561dmin",
        "/x%2f..%2fadmin",
        "/x%252f..%252fadmin",
        "/x/%2e%2e/admin",
        "/x/%2e./admin",
        "/x\\..\\admin",
        "/x%5c..%5cadmin",
        "/admin;jsessionid=1",
        "/admin;x%2fy",
        "/admin%3bx",
        "/x/y/../..//admin",
        "/admin%3Fx",
        "/admin%3fx",
        "/admin/%3F",
        "/admin%23x",
        "/admin%253Fx",
        "/admin%2523x",
        "/%61dmin%3Fx",
        "/x/..%2fadmin%3Fx",
        "/admin;a%3Fb",
        "/admin%3F/../x",
        "/x%3F/../admin",
        "/x%3F/../admin%3Fy",
        "/x%3F/../admin%23y",
        "/x%253F/%252e%252e/admin%3Fy",
        "/%2561dmin%3F/../x",
        "/x%253F/%252e%252e/admin%3F/../y",
    ] {
        assert!(several(target).contains(&"/admin".to_owned()), "{target}: {:?}", several(target));
    }
}

#[test]
fn an_encoded_delimiter_is_also_read_as_part_of_the_path() {
    assert_eq!(several("/a%3Fb"), ["/a%3Fb", "/a?b", "/a"]);
    assert_eq!(several("/a%23"), ["/a%23", "/a#", "/a"]);
    assert_eq!(several("/%3F"), ["/%3F", "/?", "/"]);
}

#[test]
fn a_path_with_too_many_readings_is_not_read() {
    let twisted = r"/a%253be%253bex%252e/./a%5cx\x%2e%2ex;c%2f%2e%2e;c%2e%2e/b%3bd%252e\///.%2f%252e/.%252f%253be%253F/%2e%2e//%2e%2e%2f%5c/a;c\x/a%253F%3bd%23/%2e%2e//%23%253be%252e\";
    assert_eq!(Readings::of(twisted.as_bytes(), PathCase::Sensitive), Readings::None);
}

#[test]
fn what_is_no_path_is_not_read() {
    for target in [
        "",
        "admin",
        "?",
        "http://x/admin",
        "/%",
        "/%4",
        "/%zz",
        "/%00",
        "/%0d",
        "/%c0%af",
        "/%ff",
        "/a#b",
        "/\u{1}",
        "/é",
        "/a b",
        "/x;/%c0%afadmin",
    ] {
        assert_eq!(Readings::of(target.as_bytes(), PathCase::Sensitive), Readings::None, "{target}");
    }
    let long = format!("//{}", "a".repeat(LONGEST_AMBIGUOUS));
    assert_eq!(Readings::of(long.as_bytes(), PathCase::Sensitive), Readings::None);
}

#[test]
fn case_is_folded_on_demand() {
    let insensitive = Readings::of(b"/ADMIN/x", PathCase::Insensitive);
    assert_eq!(insensitive, Readings::One(Cow::Borrowed(b"/admin/x")));
    assert_eq!(one("/ADMIN/x"), "/ADMIN/x");
    let Readings::Several(paths) = Readings::of(b"//ADMIN", PathCase::Insensitive) else { panic!() };
    assert!(paths.contains(&b"/admin".to_vec()));
}

fn matches(pattern: &str, path: &str) -> bool {
    PathPattern::parse(pattern, PathCase::Sensitive).unwrap().matches(one(path).as_bytes())
}

#[test]
fn an_exact_pattern_is_one_path() {
    assert!(matches("/healthz", "/healthz"));
    assert!(matches("/healthz", "/healthz/"));
    assert!(matches("/healthz/", "/healthz"));
    assert!(matches("/", "/"));
    assert!(!matches("/healthz", "/healthz/x"));
    assert!(!matches("/healthz", "/health"));
    assert!(!matches("/healthz", "/Healthz"));
    assert!(!matches("/", "/x"));
}

#[test]
fn a_star_covers_the_path_itself_and_all_below_but_no_neighbour() {
    for path in ["/admin", "/admin/", "/admin/x", "/admin/x/y"] {
        assert!(matches("/admin/*", path), "{path}");
    }
    assert!(!matches("/admin/*", "/administrator"));
    assert!(!matches("/admin/*", "/"));
    for path in ["/", "/x", "/x/y"] {
        assert!(matches("/*", path), "{path}");
    }
}

#[test]
fn templates() {
    assert!(matches("/users/{*}/orders", "/users/7/orders"));
    assert!(!matches("/users/{*}/orders", "/users/orders"));
    assert!(!matches("/users/{*}/orders", "/users/7/8/orders"));
    assert!(matches("/users/{*}", "/users/7"));
    assert!(!matches("/users/{*}", "/users"));
    assert!(matches("/users/{*}/*", "/users/7/a/b"));
    assert!(matches("/users/{*}/*", "/users/7"));
    assert!(matches("/docs/{**}/index", "/docs/index"));
    assert!(matches("/docs/{**}/index", "/docs/a/b/index"));
    assert!(!matches("/docs/{**}/index", "/docs"));
    assert!(matches("/{**}", "/"));
    assert!(matches("/a/{**}", "/a"));
    assert!(!matches("/a/{**}", "/b"));
}

#[test]
fn a_pattern_that_no_reading_matches_is_refused() {
    for wrong in [
        "",
        "admin",
        "*",
        "/a//b",
        "/a/../b",
        "/./a",
        "/a*",
        "/*/b",
        "/a{*}",
        "/{x}",
        "/a%20b",
        "/a?b",
        "/a;b",
        "/{**}/a/{**}",
        "/{**}/*",
    ] {
        assert!(PathPattern::parse(wrong, PathCase::Sensitive).is_err(), "{wrong}");
    }
}

#[test]
fn a_pattern_can_ignore_case() {
    let pattern = PathPattern::parse("/Admin/*", PathCase::Insensitive).unwrap();
    assert!(pattern.matches(b"/admin/x"));
}

proptest! {
    #[test]
    fn any_target_is_read_without_panic(target: Vec<u8>) {
        let mut path = vec![b'/'];
        path.extend(&target);
        for target in [&target, &path] {
            match Readings::of(target, PathCase::Sensitive) {
                Readings::Several(paths) => prop_assert!(!paths.is_empty()),
                Readings::One(path) => prop_assert!(!path.is_empty()),
                Readings::None => {}
            }
        }
    }

    /// Encoding any one character of a path differently never gives a single reading that is another path.
    #[test]
    fn no_encoding_of_one_character_hides_a_path(path in "/[a-z]{1,4}/[a-z@:+ é]{1,4}", at in 1_usize..8) {
        let plain = PathPattern::parse(&path, PathCase::Sensitive);
        prop_assume!(plain.is_ok());
        let encoded: String = path
            .char_indices()
            .flat_map(|(n, c)| {
                let mut utf8 = [0; 4];
                let text = c.encode_utf8(&mut utf8);
                if n == at || !c.is_ascii_graphic() {
                    text.bytes().map(|byte| format!("%{byte:02x}")).collect::<Vec<_>>()
                } else {
                    vec![text.to_owned()]
                }
            })
            .collect();
        let readings = match Readings::of(encoded.as_bytes(), PathCase::Sensitive) {
            Readings::One(path) => vec![path.into_owned()],
            Readings::Several(paths) => paths,
            Readings::None => panic!("{encoded}"),
        };
        prop_assert!(readings.iter().any(|reading| plain.as_ref().unwrap().matches(reading)), "{}", encoded);
    }

    /// However it goes on: a path that ends at an encoded delimiter is among the readings, or there is none.
    #[test]
    fn no_encoded_delimiter_hides_the_path_before_it(
        path in "(/[a-z]{1,3}){1,3}",
        delimiter in "%(25)?(3[fF]|23)",
        rest in "([a-z/.;?]|%2[eEfF5]|%3[bBfF]|%5c|%252e|/\\.\\./){0,12}",
    ) {
        let target = format!("{path}{delimiter}{rest}");
        match Readings::of(target.as_bytes(), PathCase::Sensitive) {
            Readings::One(_) => prop_assert!(false, "{}", target),
            Readings::Several(readings) => {
                prop_assert!(readings.len() <= MOST_READINGS);
                prop_assert!(readings.contains(&path.into_bytes()), "{}", target);
            }
            Readings::None => {}
        }
    }

    #[test]
    fn the_number_of_readings_is_bounded(
        target in "/([a-z/.;?%]|%25|%2[eEfF3]|%3[bBfF]|%5c|%25(2[efEF35]|3[bf])|/\\.\\./){0,40}",
    ) {
        if let Readings::Several(readings) = Readings::of(target.as_bytes(), PathCase::Sensitive) {
            prop_assert!(readings.len() <= MOST_READINGS);
            prop_assert!(readings.iter().all(|reading| reading.first() == Some(&b'/')), "{}", target);
            // Each reading with a delimiter in it is there cut at it too.
            for (delimiter, before) in [(b'?', without_query as Step), (b'#', without_fragment)] {
                for reading in readings.iter().filter(|reading| reading.contains(&delimiter)) {
                    let cut = before(reading);
                    let cut = without_trailing_slash(&cut);
                    prop_assert!(readings.iter().any(|reading| reading == cut), "{}", target);
                }
            }
        }
    }

    #[test]
    fn any_pattern_is_parsed_or_refused(pattern in ".{0,20}", path in "/[a-z/{}*]{0,12}") {
        if let Ok(pattern) = PathPattern::parse(&pattern, PathCase::Insensitive) {
            pattern.matches(path.as_bytes());
        }
    }
}
