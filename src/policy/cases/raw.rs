//! Cases as they stand in the file, and what they mean.
//!
//! Every field that is left out has one meaning; a value of another form is refused with what would be
//! right. Reads nothing but what it is given.

use super::*;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) at: Option<Spanned<toml::Value>>,
    #[serde(default)]
    pub(super) settings: BTreeMap<String, Setting>,
    #[serde(default)]
    pub(super) exclude: Vec<Spanned<Exclude>>,
    #[serde(default)]
    pub(super) resolve: Vec<Spanned<Resolve>>,
    #[serde(default)]
    pub(super) refuse: Vec<Spanned<Refuse>>,
}

/// A setting is a text; a number or a truth value is written as one.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Setting {
    Text(String),
    Number(i64),
    Truth(bool),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Refuse {
    #[serde(default)]
    pub(super) settings: BTreeMap<String, Setting>,
    pub(super) error: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Exclude {
    path: Option<String>,
    path_hex: Option<String>,
    kind: Option<String>,
    size: Option<Size>,
    mtime: Option<toml::Value>,
    mode: Option<u32>,
    #[serde(default)]
    uid: u32,
    #[serde(default)]
    gid: u32,
    expect: ExpectVerdict,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Size {
    Bytes(u64),
    Text(String),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ExpectVerdict {
    Action(String),
    Table(VerdictTable),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VerdictTable {
    action: String,
    rule: Option<String>,
    max_fuel: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Resolve {
    path: Option<String>,
    path_hex: Option<String>,
    class: Option<String>,
    base: Option<RawSide>,
    production: Option<RawSide>,
    recovery: Option<RawSide>,
    /// Paths that are not free, for `keep-both`.
    #[serde(default)]
    taken: Vec<String>,
    expect: ExpectDecision,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawSide {
    Text(String),
    Table(Box<SideTable>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SideTable {
    text: Option<String>,
    hex: Option<String>,
    #[serde(default)]
    deleted: bool,
    #[serde(default)]
    absent: bool,
    kind: Option<String>,
    path: Option<String>,
    renamed_from: Option<String>,
    link: Option<String>,
    mtime: Option<toml::Value>,
    mode: Option<u32>,
    #[serde(default)]
    uid: u32,
    #[serde(default)]
    gid: u32,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ExpectDecision {
    Outcome(String),
    Table(Box<DecisionTable>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DecisionTable {
    outcome: String,
    rule: Option<String>,
    reason: Option<String>,
    content: Option<String>,
    content_hex: Option<String>,
    attributes: Option<String>,
    renamed: Option<String>,
    new_path: Option<String>,
    max_fuel: Option<u64>,
}

pub(super) fn settings(raw: BTreeMap<String, Setting>) -> BTreeMap<String, String> {
    let text = |value| match value {
        Setting::Text(text) => text,
        Setting::Number(number) => number.to_string(),
        Setting::Truth(truth) => truth.to_string(),
    };
    raw.into_iter().map(|(key, value)| (key, text(value))).collect()
}

/// A moment: a date of TOML, seconds since 1970, or a text.
pub(super) fn time(value: toml::Value) -> Result<Timestamp, String> {
    match value {
        toml::Value::Datetime(time) => parse_time(&time.to_string()),
        toml::Value::Integer(seconds) => Ok(Timestamp { seconds, nanos: 0 }),
        toml::Value::String(text) => parse_time(&text),
        other => {
            Err(format!("a time is a date or a number of seconds, not a {}", other.type_str()))
        }
    }
}

fn path(text: Option<String>, hex: Option<String>) -> Result<RelPath, String> {
    match (text, hex) {
        (Some(text), None) => parse_path(text.as_bytes()),
        (None, Some(hex)) => parse_path(&parse_hex(&hex)?),
        _ => Err("a case has one of 'path' and 'path_hex'".into()),
    }
}

fn mode(mode: Option<u32>, usual: u32) -> Result<u32, String> {
    match mode {
        None => Ok(usual),
        Some(mode) if mode <= 0o7777 => Ok(mode),
        Some(mode) => Err(format!("mode {mode} has more than twelve bits: write it as 0o644")),
    }
}

fn action(text: &str) -> Result<Action, String> {
    let actions = [Action::Replicate, Action::Exclude, Action::Defer];
    let found = actions.into_iter().find(|action| action_name(*action) == text);
    found.ok_or_else(|| format!("'{text}' is no action: replicate, exclude, defer"))
}

fn site(text: &str) -> Result<Site, String> {
    match text {
        "production" => Ok(Site::Production),
        "recovery" => Ok(Site::Recovery),
        _ => Err(format!("'{text}' is no site: production, recovery")),
    }
}

impl Exclude {
    pub(super) fn case(self, line: usize) -> Result<ExcludeCase, String> {
        let kind = self.kind.as_deref().map_or(Ok(EntryKind::File), parse_kind)?;
        let mut facts = Facts::of(path(self.path, self.path_hex)?, kind);
        facts.size = match self.size {
            None => 0,
            Some(Size::Bytes(bytes)) => bytes,
            Some(Size::Text(text)) => parse_size(&text).map_err(|e| e.to_string())?,
        };
        if let Some(mtime) = self.mtime {
            facts.mtime = time(mtime)?;
        }
        facts.mode = mode(self.mode, facts.mode)?;
        (facts.uid, facts.gid) = (self.uid, self.gid);
        let (action, rule, max_fuel) = match self.expect {
            ExpectVerdict::Action(text) => (action(&text)?, None, None),
            ExpectVerdict::Table(table) => (action(&table.action)?, table.rule, table.max_fuel),
        };
        Ok(ExcludeCase { line, facts, action, rule, max_fuel })
    }
}

impl Resolve {
    pub(super) fn case(self, line: usize) -> Result<ResolveCase, String> {
        let path = path(self.path, self.path_hex)?;
        let (base, base_text) = side(self.base, &path, State::Absent)?;
        // What was there at the common point and is not any more was deleted since.
        let gone = if base.version().is_some() { State::Deleted } else { State::Absent };
        let (production, production_text) = side(self.production, &path, gone.clone())?;
        let (recovery, recovery_text) = side(self.recovery, &path, gone)?;
        let class = match self.class.as_deref() {
            Some(text) => class(text)?,
            None => class_of(&base, &production, &recovery),
        };
        let taken = self.taken.iter().map(|path| parse_path(path.as_bytes()));
        Ok(ResolveCase {
            line,
            conflict: Conflict { path, class, base, production, recovery },
            texts: Texts { base: base_text, production: production_text, recovery: recovery_text },
            taken: taken.collect::<Result<_, _>>()?,
            expect: self.expect.expected()?,
        })
    }
}

impl ExpectDecision {
    fn expected(self) -> Result<Expected, String> {
        const OUTCOMES: [&str; 6] =
            ["keep-production", "keep-recovery", "keep-both", "merge", "delete", "hold"];
        let found = match self {
            Self::Outcome(outcome) => Expected { outcome, ..Expected::default() },
            Self::Table(table) => {
                let content = match (table.content, table.content_hex) {
                    (Some(_), Some(_)) => return Err("'content' and 'content_hex' are one".into()),
                    (Some(text), None) => Some(text.into_bytes()),
                    (None, Some(hex)) => Some(parse_hex(&hex)?),
                    (None, None) => None,
                };
                let new_path = table.new_path.map(|path| parse_path(path.as_bytes()));
                Expected {
                    outcome: table.outcome,
                    rule: table.rule,
                    reason: table.reason,
                    content,
                    attributes: table.attributes.as_deref().map(site).transpose()?,
                    renamed: table.renamed.as_deref().map(site).transpose()?,
                    new_path: new_path.transpose()?,
                    max_fuel: table.max_fuel,
                }
            }
        };
        if !OUTCOMES.contains(&found.outcome.as_str()) {
            return Err(format!("'{}' is no outcome: {}", found.outcome, OUTCOMES.join(", ")));
        }
        let merges = found.content.is_some() || found.attributes.is_some();
        let renames = found.renamed.is_some() || found.new_path.is_some();
        match found.outcome.as_str() {
            other if merges && other != "merge" => {
                Err(format!("'content' and 'attributes' are of 'merge', not of '{other}'"))
            }
            other if renames && other != "keep-both" => {
                Err(format!("'renamed' and 'new_path' are of 'keep-both', not of '{other}'"))
            }
            _ => Ok(found),
        }
    }
}

fn side(
    raw: Option<RawSide>,
    path: &RelPath,
    missing: State,
) -> Result<(State, Option<Vec<u8>>), String> {
    let table = match raw {
        None => return Ok((missing, None)),
        Some(RawSide::Text(word)) if word == "deleted" => return Ok((State::Deleted, None)),
        Some(RawSide::Text(word)) if word == "absent" => return Ok((State::Absent, None)),
        Some(RawSide::Text(text)) => {
            let facts = Facts::of(path.clone(), EntryKind::File);
            return Ok((State::Present(version(facts, Some(text.as_bytes()))), Some(text.into())));
        }
        Some(RawSide::Table(table)) => *table,
    };
    if table.deleted || table.absent {
        let state = if table.deleted { State::Deleted } else { State::Absent };
        return Ok((state, None));
    }
    let kind = match (table.kind.as_deref(), &table.link) {
        (None, Some(_)) => EntryKind::Symlink,
        (kind, _) => kind.map_or(Ok(EntryKind::File), parse_kind)?,
    };
    let content = match (table.text, table.hex) {
        (Some(_), Some(_)) => return Err("a version has one of 'text' and 'hex'".into()),
        (Some(text), None) => Some(text.into_bytes()),
        (None, Some(hex)) => Some(parse_hex(&hex)?),
        (None, None) if kind == EntryKind::File => Some(Vec::new()),
        (None, None) => None,
    };
    if content.is_some() && kind != EntryKind::File {
        return Err(format!("a {kind} has no 'text' and no 'hex'"));
    }
    let at = table.path.map_or_else(|| Ok(path.clone()), |path| parse_path(path.as_bytes()))?;
    let mut facts = Facts::of(at, kind);
    if let Some(mtime) = table.mtime {
        facts.mtime = time(mtime)?;
    }
    facts.mode = mode(table.mode, facts.mode)?;
    (facts.uid, facts.gid) = (table.uid, table.gid);
    let mut version = version(facts, content.as_deref());
    version.link_target = table.link.map(|link| link.into_bytes().into());
    version.renamed_from = table.renamed_from.map(|p| parse_path(p.as_bytes())).transpose()?;
    Ok((State::Present(version), content))
}

/// The version with these facts and this content.
fn version(facts: Facts, content: Option<&[u8]>) -> Version {
    let Facts { path, kind, size: _, mtime, mode, uid, gid } = facts;
    Version {
        path,
        kind,
        size: content.map_or(0, |bytes| bytes.len() as u64),
        mtime,
        mode,
        uid,
        gid,
        digest: content.map(FileDigest::of_small),
        link_target: None,
        renamed_from: None,
    }
}

fn class(text: &str) -> Result<Class, String> {
    Ok(match text {
        "modify-modify" => Class::ModifyModify,
        "modify-delete" => Class::ModifyDelete,
        "create-create" => Class::CreateCreate,
        "rename-rename" => Class::RenameRename,
        "rename-modify" => Class::RenameModify,
        "type-change" => Class::TypeChange,
        "attributes-only" => Class::AttributesOnly,
        _ => {
            return Err(format!(
                "'{text}' is no class: modify-modify, modify-delete, create-create, rename-rename, \
                 rename-modify, type-change, attributes-only"
            ));
        }
    })
}

/// The class that follows from the versions.
fn class_of(base: &State, production: &State, recovery: &State) -> Class {
    let (Some(ours), Some(theirs)) = (production.version(), recovery.version()) else {
        return Class::ModifyDelete;
    };
    let same_content = ours.digest == theirs.digest && ours.link_target == theirs.link_target;
    match (&ours.renamed_from, &theirs.renamed_from) {
        _ if ours.kind != theirs.kind => Class::TypeChange,
        (Some(_), Some(_)) => Class::RenameRename,
        (Some(_), None) | (None, Some(_)) => Class::RenameModify,
        (None, None) if same_content => Class::AttributesOnly,
        (None, None) if base.version().is_none() => Class::CreateCreate,
        (None, None) => Class::ModifyModify,
    }
}
