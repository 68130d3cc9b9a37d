//! Whose policies a site runs.
//!
//! A site without a list of signers (`<state>/policies/signers`) runs what its operator names. With one,
//! a component decides about a run only when a key of the list signed it (`FILE.minisig` beside the file,
//! kept with an installed one), when its bytes are those of one that comes with Farshore, or when it was
//! installed with `--allow-unsigned`, which lets in what has no signature, never one that is wrong.
//! Refuses: a list that names no key, since it would look like one that allows nothing and mean an
//! accident.

use std::path::{Path, PathBuf};

use farshore_policies::sign::Signers;

use super::embedded;
use super::library::{Chosen, Origin};
use crate::exit::{Exit, Failure};

/// Why a policy may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// The site has no list of signers.
    Anyone,
    /// It comes with Farshore.
    Embedded,
    /// That key signed it.
    Signed(String),
    /// It was let in without a signature.
    Exception,
}

/// Where the signature of a file is.
#[must_use]
pub fn signature_file(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".minisig");
    name.into()
}

/// Whether `chosen` may run where `list` is the list of signers.
///
/// # Errors
/// [`Failure`] when it may not, with the remedy.
pub fn judge(chosen: &Chosen, list: Option<&str>) -> Result<Trust, Failure> {
    let Some(list) = list else { return Ok(Trust::Anyone) };
    // Installed with settings of its own, or taken from a file, it is the same component.
    if embedded::has(&chosen.component) {
        return Ok(Trust::Embedded);
    }
    let bad_list = |why: String| Failure {
        exit: Exit::Refused,
        message: format!("the list of signers: {why}"),
        hint: Some(
            "one minisign public key a line, then a name if wanted; remove the file 'signers' to \
             run policies of anyone"
                .into(),
        ),
    };
    let signers = Signers::parse(list).map_err(|e| bad_list(e.to_string()))?;
    if signers.is_empty() {
        return Err(bad_list("it names no key".into()));
    }
    let Some(signature) = &chosen.signature else {
        if chosen.unsigned {
            return Ok(Trust::Exception);
        }
        let hint = match &chosen.origin {
            Origin::File(path) => format!(
                "have one of this site's signers sign it: 'farshore policy sign {}'; or install it \
                 as an exception: 'farshore policy install --allow-unsigned'",
                path.display()
            ),
            _ => "install it again, signed, or with --allow-unsigned".to_owned(),
        };
        let message = "it is not signed, and this site has a list of signers";
        return Err(chosen.refused(message).hint(hint));
    };
    match signers.verify(&chosen.component, signature) {
        Ok(signer) => Ok(Trust::Signed(signer.name.clone())),
        Err(e) => Err(chosen
            .refused(e)
            .hint("the signature must be of this very file, by a key in <state>/policies/signers")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::borrow::Cow;

    use farshore_policies::sign::{make_keys, sign};

    use super::*;

    #[test]
    fn with_a_list_only_what_is_on_it_runs() {
        let keys = make_keys(None).unwrap();
        let list = keys.public.clone();
        let mut chosen =
            Chosen::new("x", None, Origin::File("x.wasm".into()), Cow::Borrowed(b"component"));
        assert_eq!(judge(&chosen, None).unwrap(), Trust::Anyone);
        let refused = judge(&chosen, Some(&list)).unwrap_err().to_string();
        assert!(
            refused.contains("not signed") && refused.contains("--allow-unsigned"),
            "{refused}"
        );
        chosen.signature = Some(sign(b"component", &keys.secret, None, "").unwrap());
        assert!(matches!(judge(&chosen, Some(&list)).unwrap(), Trust::Signed(_)));
        chosen.component = Cow::Borrowed(b"Component");
        assert!(judge(&chosen, Some(&list)).is_err());
        // An exception is for what has no signature, not for a wrong one.
        chosen.unsigned = true;
        assert!(judge(&chosen, Some(&list)).is_err());
        chosen.signature = None;
        assert_eq!(judge(&chosen, Some(&list)).unwrap(), Trust::Exception);
        for (name, component) in embedded::EMBEDDED {
            for origin in [Origin::Embedded, Origin::Installed, Origin::File(name.into())] {
                let chosen = Chosen::new(name, None, origin, Cow::Borrowed(component));
                assert_eq!(judge(&chosen, Some(&list)).unwrap(), Trust::Embedded);
            }
        }
        for wrong in ["", "# nobody\n", "no key\n"] {
            let refused = judge(&chosen, Some(wrong)).unwrap_err().to_string();
            assert!(refused.contains("list of signers"), "{refused}");
        }
    }
}
