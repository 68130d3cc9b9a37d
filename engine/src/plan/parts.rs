//! (being written)
use super::*;
/// Part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// dir
    pub directory: RelPath,
    /// deep
    pub deep: bool,
}
/// Scope.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scope(Vec<Part>);
impl Scope {
    /// new
    pub fn new(parts: impl IntoIterator<Item = Part>) -> Self {
        Self(parts.into_iter().collect())
    }
    /// parts
    pub fn parts(&self) -> &[Part] {
        &self.0
    }
}
/// P.
#[derive(Debug)]
pub enum PartialPlan {
    /// p
    Plan(Box<Plan>),
    /// w
    Whole(&'static str),
}
/// plan
pub fn plan_parts<S: Storage>(
    _: &S,
    _: &CatalogReader,
    _: &dyn Policy,
    _: &[u8],
    _: &Scope,
    _: &Path,
    _: &mut dyn FnMut(u64),
) -> Result<PartialPlan, PlanError> {
    Ok(PartialPlan::Whole("not built"))
}
