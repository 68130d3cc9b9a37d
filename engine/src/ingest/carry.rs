//! Reading one larger file ahead of its cut, and giving it its place in that.
//!
//! Guarantees: what is placed is what was read between two equal looks, as it was found unchanged when its cut
//! began; the cut neither reads nor sends it.

use super::*;

/// A file as it was carried ahead.
#[derive(Debug)]
pub struct ReadAhead {
    /// What it was.
    pub entry: Entry,
    /// What it is made of.
    pub recipe: Option<Arc<Recipe>>,
    /// Its facts then.
    pub stat: Stat,
    /// Whether a change while it was read would have shown in them: its last one was long enough before that.
    pub settled: bool,
}

/// What a cut gives the place of its own.
#[derive(Debug)]
pub struct Placing {
    /// What it is; its content was carried.
    pub record: Record,
    /// What it is made of.
    pub recipe: Option<Arc<Recipe>>,
    /// Its facts.
    pub stat: Stat,
}

impl<S: Storage> Ingest<'_, S> {
    /// Reads the file and writes what the target lacks of it; what it is. It is read once: one that
    /// changes meanwhile is an error, and what was written of it can be built on.
    ///
    /// # Errors
    /// [`IngestError`]; within, what goes wrong with the file.
    pub fn carry(
        &mut self,
        number: u64,
        path: &RelPath,
        writer: &mut FrameWriter<'_>,
    ) -> Result<Result<ReadAhead, ObserveError>, IngestError> {
        let writer = OpQueue::new(writer, self.desk, self.progress);
        let mut batch = Batch { number, writer, record: BatchRecord::default() };
        self.parent = None;
        let known = self.catalog.get(path)?.map(|record| record.entry);
        let (mut looked, seen) = (None, (self.now)());
        let read = self.large_file_seen(path, known, &mut batch, &mut looked);
        batch.writer.finish()?;
        batch.writer.take_all_answers();
        match read {
            Ok(()) => {}
            Err(Failure::Batch(e)) => return Err(e),
            Err(Failure::Entry(e)) => return Ok(Err(e)),
        }
        let BatchRecord { mut effects, mut refreshed, .. } = batch.record;
        let made = match (effects.pop(), refreshed.pop()) {
            (Some(Effect::Put { record, recipe, .. }), _) => Some((record, recipe)),
            (_, Some((_, record, recipe))) => Some((record, recipe)),
            _ => None,
        };
        Ok(match (made, looked) {
            (Some((Record { entry, .. }, recipe)), Some(stat)) => {
                let settled = seen.nanos_since(stat.ctime) >= self.racy_ns;
                Ok(ReadAhead { entry, recipe, stat, settled })
            }
            _ => Err(ObserveError::Changed),
        })
    }

    /// Gives a file that was carried its place.
    pub(super) fn place(
        &mut self,
        path: &RelPath,
        moved_from: Option<&RelPath>,
        placing: &Placing,
        batch: &mut Batch<'_, '_, '_>,
    ) -> Result<(), Failure> {
        let Placing { record, recipe, stat } = placing;
        let Record { entry, facts } = record;
        let record = || Record { entry: entry.clone(), facts: *facts };
        if let Some(from) = moved_from
            && self.try_move(from, path, entry, recipe.clone(), stat, batch)?
        {
            return Ok(());
        }
        Progress::add(&self.progress.reused_bytes, entry.size());
        let known = self.catalog.get(path)?.map(|record| record.entry);
        if let Some(known) = known.filter(|known| known.same_but_metadata(entry)) {
            return self.unchanged_content(path, &known, record(), recipe.clone(), batch);
        }
        let op = Op::Reuse { path: path.clone(), entry: entry.clone() };
        let kind = EffectKind::Written;
        Ok(batch.put(&op, path.clone(), record(), recipe.clone(), kind)?)
    }
}
