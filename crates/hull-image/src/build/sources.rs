//! Where packages come from: by default, wherever the host's own apt takes the suite from.

use std::path::Path;

use hull_types::error::Result;

use super::Recipe;

/// Lines of `sources.list` for the recipe. None means that the tool's own default is right.
pub(super) fn for_recipe(recipe: &Recipe) -> Result<Vec<String>> {
    if let Some(mirror) = &recipe.mirror {
        return Ok(vec![format!("deb {mirror} {} main", recipe.suite)]);
    }
    Ok(host_sources(Path::new("/etc/apt"), &recipe.suite))
}

fn host_sources(apt: &Path, suite: &str) -> Vec<String> {
    let mut files: Vec<_> = std::fs::read_dir(apt.join("sources.list.d"))
        .map(|dir| dir.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    files.push(apt.join("sources.list"));
    files.sort();
    let mut lines = Vec::new();
    for file in files {
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        match file.extension().and_then(|e| e.to_str()) {
            Some("sources") => lines.extend(deb822(&text, suite)),
            Some("list") => lines.extend(one_line(&text, suite)),
            _ => {}
        }
    }
    lines
}

/// The suite itself, its updates and its security fixes; not backports or another release.
fn wanted(found: &str, suite: &str) -> bool {
    found == suite || found.strip_prefix(suite).is_some_and(|rest| matches!(rest, "-updates" | "-security"))
}

fn is_debian(uri: &str) -> bool {
    let path = uri.trim_end_matches('/');
    path.ends_with("/debian") || path.ends_with("/debian-security") || uri.contains("/archive/debian")
}

fn one_line(text: &str, suite: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim).filter(|l| l.starts_with("deb "));
    let ours = lines.filter(|line| {
        let words: Vec<&str> = line.split_whitespace().skip(1).filter(|w| !w.contains(['[', ']', '='])).collect();
        matches!(words[..], [uri, found, ..] if is_debian(uri) && wanted(found, suite))
    });
    ours.map(str::to_owned).collect()
}

fn deb822(text: &str, suite: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for stanza in text.split("\n\n") {
        let field = |name: &str| {
            let mut fields = stanza.lines().filter_map(|l| l.split_once(':'));
            fields.find(|(key, _)| key.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value.trim())
        };
        if !field("Types").split_whitespace().any(|t| t == "deb") || field("Enabled") == "no" {
            continue;
        }
        let options = match field("Signed-By") {
            key if key.starts_with('/') => format!("[signed-by={key}] "),
            _ => String::new(),
        };
        for uri in field("URIs").split_whitespace().filter(|uri| is_debian(uri)) {
            for found in field("Suites").split_whitespace().filter(|found| wanted(found, suite)) {
                lines.push(format!("deb {options}{uri} {found} {}", field("Components")));
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_apt_sources_are_understood() {
        let text = "Types: deb\n# note\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates sid\n\
                    Components: main contrib\nSigned-By: /k.gpg\n\nTypes: deb\nURIs: https://other.example/tools\n\
                    Suites: bookworm\nComponents: main\n";
        assert_eq!(
            deb822(text, "bookworm"),
            [
                "deb [signed-by=/k.gpg] http://mirror.example/debian bookworm main contrib",
                "deb [signed-by=/k.gpg] http://mirror.example/debian bookworm-updates main contrib"
            ]
        );
        let text = "# deb http://x/debian bookworm main\ndeb [signed-by=/k] http://m.example/debian/ bookworm main\n\
                    deb http://m.example/debian trixie main\ndeb-src http://m.example/debian bookworm main\n";
        assert_eq!(one_line(text, "bookworm"), ["deb [signed-by=/k] http://m.example/debian/ bookworm main"]);
    }
}
