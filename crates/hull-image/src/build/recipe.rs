//! Recipes: what an image is built from, as YAML, parsed at the door.

use std::path::{Component, Path, PathBuf};

use hull_types::{
    error::{Error, Result},
    units::Bytes,
};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

const DEBIAN_12: &str = include_str!("../../recipes/debian-12.yaml");
/// What built-in recipes name as the source of a file.
const DEBIAN_12_FILES: [(&str, &str); 1] = [("warm-cloud-init", include_str!("../../recipes/warm-cloud-init"))];
/// 1 January 2024: the date of what has none of its own.
const SOURCE_DATE: i64 = 1_704_067_200;
const SMALLEST: Bytes = Bytes::mib(64);
const LARGEST: Bytes = Bytes::gib(256);

/// What to build.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The image's name.
    pub name: String,
    /// The distribution's release, such as `bookworm`.
    pub suite: String,
    /// Where packages come from; by default, where the host's own apt takes that suite from.
    #[serde(default)]
    pub mirror: Option<String>,
    /// The virtual disk's size; a machine may make it larger.
    pub size: Size,
    /// The host name until a machine gets its own.
    #[serde(default = "default_hostname")]
    pub hostname: String,
    /// The kernel in the disk.
    #[serde(default)]
    pub kernel: Kernel,
    /// Appended to the kernel's command line.
    #[serde(default)]
    pub cmdline: String,
    /// Debian packages, without recommended ones.
    #[serde(default)]
    pub packages: Vec<String>,
    /// Files to write.
    #[serde(default)]
    pub files: Vec<RecipeFile>,
    /// Shell commands run inside, in order, after packages and files.
    #[serde(default)]
    pub commands: Vec<String>,
    /// Seconds since 1970 given to everything made while building.
    #[serde(default = "default_source_date")]
    pub source_date: i64,
}

/// Which kernel the disk holds: `none`, or a package's name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub enum Kernel {
    /// None: the disk has no boot loader either, and is started with a kernel given from outside.
    #[default]
    None,
    /// A package of the distribution.
    Package(String),
}

impl From<String> for Kernel {
    fn from(text: String) -> Self {
        if text == "none" { Self::None } else { Self::Package(text) }
    }
}

/// A file of a recipe.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipeFile {
    /// Absolute, inside the image.
    pub path: PathBuf,
    /// Its text; or else `source`.
    #[serde(default)]
    pub content: Option<String>,
    /// A file of the host, relative to the recipe.
    #[serde(default)]
    pub source: Option<PathBuf>,
    /// Octal permissions.
    #[serde(default)]
    pub mode: Mode,
    /// `user` or `user:group`, by name, as the image knows them.
    #[serde(default)]
    pub owner: Option<String>,
    /// Written before packages are installed, so that their installation sees it.
    #[serde(default)]
    pub before_packages: bool,
}

/// Permissions, written in octal as a string (`"0644"`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Mode(pub u32);

impl Default for Mode {
    fn default() -> Self {
        Self(0o644)
    }
}

impl TryFrom<String> for Mode {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match u32::from_str_radix(&text, 8) {
            Ok(mode) if mode <= 0o7777 => Ok(Self(mode)),
            _ => Err(format!("{text:?} is no file mode: write octal digits in quotes, like \"0644\"")),
        }
    }
}

/// An amount written as people do (`3GiB`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Size(pub Bytes);

impl TryFrom<String> for Size {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse().map(Self).map_err(|e: hull_types::units::BytesError| e.to_string())
    }
}

fn default_hostname() -> String {
    "localhost".to_owned()
}

const fn default_source_date() -> i64 {
    SOURCE_DATE
}

impl Recipe {
    /// Names of the recipes that come with Hull.
    pub const BUILT_IN: [&'static str; 1] = ["debian-12"];

    /// A recipe that comes with Hull.
    ///
    /// # Errors
    /// `NotFound`, with the names there are.
    pub fn built_in(name: &str) -> Result<Self> {
        match name {
            "debian-12" => Ok(Self::parse(DEBIAN_12)?.with_embedded(&DEBIAN_12_FILES)),
            _ => Err(Error::not_found(format!(
                "no recipe {name:?} comes with Hull; there is {}, or give a recipe file",
                Self::BUILT_IN.join(", ")
            ))),
        }
    }

    /// Reads a recipe's YAML.
    ///
    /// # Errors
    /// `Invalid`, naming what is wrong and where.
    pub fn parse(yaml: &str) -> Result<Self> {
        let recipe: Self =
            serde_norway::from_str(yaml).map_err(|e| Error::invalid(format!("the recipe cannot be read: {e}")))?;
        recipe.check()?;
        Ok(recipe)
    }

    /// Reads a recipe file; sources of its files are taken relative to it.
    ///
    /// # Errors
    /// As [`Self::parse`], or the file cannot be read.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| crate::files::io_error("read", path, &e))?;
        let mut recipe = Self::parse(&text)?;
        let dir = path.parent().unwrap_or(Path::new("."));
        for source in recipe.files.iter_mut().filter_map(|f| f.source.as_mut()) {
            *source = dir.join(&source);
        }
        Ok(recipe)
    }

    fn with_embedded(mut self, files: &[(&str, &str)]) -> Self {
        for file in &mut self.files {
            let named = |(name, _): &&(&str, &str)| file.source.as_deref() == Some(Path::new(name));
            if let Some((_, text)) = files.iter().find(named) {
                file.source = None;
                file.content = Some((*text).to_owned());
            }
        }
        self
    }

    fn check(&self) -> Result<()> {
        let refuse =
            |field: &str, why: String| Err(Error::invalid(format!("recipe: {field} {why}")).at(format!("/{field}")));
        let plain = |text: &str, more: &str| {
            text.starts_with(|c: char| c.is_ascii_alphanumeric())
                && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
        };
        if !plain(&self.name, "-._") || !plain(&self.suite, "-") || !plain(&self.hostname, "-.") {
            return refuse("name", "suite and hostname must be letters, digits and dashes".to_owned());
        }
        if !(SMALLEST..=LARGEST).contains(&self.size.0) {
            return refuse("size", format!("is {}; {SMALLEST} to {LARGEST} is possible", self.size.0));
        }
        if let Some(package) = self.all_packages().find(|p| !plain(p, "+-.:=~_")) {
            return refuse("packages", format!("has {package:?}, which is no package name"));
        }
        if self.cmdline.chars().any(|c| c.is_control() || "'\"\\".contains(c)) {
            return refuse("cmdline", "may not have quotes, backslashes or control characters".to_owned());
        }
        if self.mirror.as_ref().is_some_and(|m| m.contains(char::is_whitespace) || !m.contains("://")) {
            return refuse("mirror", "must be one address like http://mirror.example/debian".to_owned());
        }
        self.files.iter().try_for_each(RecipeFile::check)
    }

    /// The packages and the kernel's.
    pub(super) fn all_packages(&self) -> impl Iterator<Item = &str> {
        let kernel = match &self.kernel {
            Kernel::Package(name) => Some(name.as_str()),
            Kernel::None => None,
        };
        kernel.into_iter().chain(self.packages.iter().map(String::as_str))
    }

    /// An identifier that is the same each time this recipe is built.
    pub(super) fn uuid(&self, part: &str) -> Uuid {
        let recipe = Sha256::digest(format!("{} {} {}", self.name, self.suite, self.size.0.0));
        Uuid::new_v5(&Uuid::new_v5(&Uuid::NAMESPACE_OID, &recipe), part.as_bytes())
    }
}

impl RecipeFile {
    fn check(&self) -> Result<()> {
        let refuse =
            |why: &str| Err(Error::invalid(format!("recipe: the file {}: {why}", self.path.display())).at("/files"));
        let normal = self.path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
        if !self.path.is_absolute() || !normal || self.path.file_name().is_none() {
            return refuse("its path must be absolute, without `..`");
        }
        if self.content.is_some() == self.source.is_some() {
            return refuse("give either content or source");
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_:".contains(c);
        if self.owner.as_ref().is_some_and(|o| !o.chars().all(plain)) {
            return refuse("its owner must be `user` or `user:group`");
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SMALL: &str = "name: tiny\nsuite: bookworm\nsize: 256MiB\n";

    #[test]
    fn the_recipes_that_come_with_hull_are_sound() {
        for name in Recipe::BUILT_IN {
            let recipe = Recipe::built_in(name).unwrap();
            assert_eq!(recipe.name, name);
            assert!(recipe.files.iter().all(|f| f.content.is_some()), "a file's source is not embedded");
        }
        assert!(Recipe::built_in("plan9").unwrap_err().detail.contains("debian-12"));
    }

    #[test]
    fn mistakes_are_named() {
        for (more, said) in [
            ("colour: red\n", "unknown field `colour`"),
            ("packages: ['a b']\n", "\"a b\", which is no package name"),
            ("packages: ['-o']\n", "no package name"),
            ("cmdline: \"x\\\"y\"\n", "cmdline may not have quotes"),
            ("mirror: here\n", "must be one address"),
            ("files: [{path: etc/x, content: a}]\n", "must be absolute"),
            ("files: [{path: /etc/../x, content: a}]\n", "must be absolute"),
            ("files: [{path: /etc/x}]\n", "either content or source"),
            ("files: [{path: /etc/x, content: a, mode: \"999\"}]\n", "is no file mode"),
            ("files: [{path: /etc/x, content: a, owner: 'a b'}]\n", "its owner must be"),
            ("kernel: 'a b'\n", "no package name"),
        ] {
            let error = Recipe::parse(&format!("{SMALL}{more}")).unwrap_err();
            assert!(error.detail.contains(said), "{more:?}: {error}");
        }
        assert!(Recipe::parse("name: x\nsuite: y\nsize: 1MiB\n").unwrap_err().detail.contains("64 MiB to 256 GiB"));
    }

    #[test]
    fn identifiers_follow_from_the_recipe() {
        let (one, two) = (Recipe::parse(SMALL).unwrap(), Recipe::parse(&SMALL.replace("tiny", "other")).unwrap());
        assert_eq!(one.uuid("root"), Recipe::parse(SMALL).unwrap().uuid("root"));
        assert_ne!(one.uuid("root"), one.uuid("esp"));
        assert_ne!(one.uuid("root"), two.uuid("root"));
    }
}
