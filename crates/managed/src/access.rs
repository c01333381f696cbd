//! Access tokens: the bearer tokens that the endpoints of MCP servers require.
//!
//! A token is the id of its allocation and a keyed hash of that id and the fencing token. It is computed when it is
//! needed and never stored. Only the key is stored, next to the state file, so that tokens outlive a restart as their
//! leases do.

use cortex_core::ids::{AllocationId, FencingToken};
use cortex_util::atomic_file;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

const KEY_BYTES: usize = 32;

/// The secret key of access tokens. `Debug` does not show it.
#[derive(Clone)]
pub struct AccessKey([u8; KEY_BYTES]);

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessKey(..)")
    }
}

impl AccessKey {
    /// Generates a key from the random numbers of the system.
    ///
    /// # Errors
    /// The system has none.
    pub fn random() -> io::Result<Self> {
        let mut key = [0; KEY_BYTES];
        getrandom::fill(&mut key)?;
        Ok(Self(key))
    }

    /// Reads the key from a file, or creates the file with a generated key. Only its owner may read the file.
    ///
    /// # Errors
    /// [`io::ErrorKind::PermissionDenied`] if other users may read or write the file, [`io::ErrorKind::InvalidData`] if
    /// it does not hold a key, and errors of the file system.
    pub fn load_or_create(path: &Path) -> io::Result<Self> {
        match File::open(path) {
            Ok(file) => {
                #[cfg(unix)]
                if std::os::unix::fs::MetadataExt::mode(&file.metadata()?) & 0o077 != 0 {
                    let why = "other users may read or write it: restrict it with chmod 600";
                    return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
                }
                let mut bytes = Vec::with_capacity(KEY_BYTES);
                file.take(KEY_BYTES as u64 + 1).read_to_end(&mut bytes)?;
                let key = bytes.try_into().map_err(|_| {
                    let why = "it does not hold a key of 32 bytes: delete it, and a new key is created";
                    io::Error::new(io::ErrorKind::InvalidData, why)
                })?;
                Ok(Self(key))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = Self::random()?;
                atomic_file::replace(path, &key.0)?;
                Ok(key)
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the token of a lease.
    #[must_use]
    pub fn token(&self, allocation: AllocationId, fencing_token: FencingToken) -> String {
        let hash = self.hash(allocation, fencing_token).finalize().into_bytes();
        format!("{allocation}.{}", base16ct::lower::encode_string(&hash))
    }

    /// Returns whether a token is that of this lease. The hash is compared in constant time.
    #[must_use]
    pub fn is_token_of(&self, token: &str, allocation: AllocationId, fencing_token: FencingToken) -> bool {
        let Some((_, hash)) = token.split_once('.') else { return false };
        let bytes = base16ct::lower::decode_vec(hash);
        bytes.is_ok_and(|bytes| self.hash(allocation, fencing_token).verify_slice(&bytes).is_ok())
    }

    fn hash(&self, allocation: AllocationId, fencing_token: FencingToken) -> Hmac<Sha256> {
        let Ok(mut hash) = Hmac::<Sha256>::new_from_slice(&self.0) else {
            unreachable!("a key may be of any length");
        };
        hash.update(b"cortex access token 1\0");
        hash.update(allocation.to_string().as_bytes());
        hash.update(&fencing_token.as_u64().to_be_bytes());
        hash
    }
}

/// Returns the allocation that a token names, without verifying the token.
#[must_use]
pub fn allocation_of(token: &str) -> Option<AllocationId> {
    token.split_once('.')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(bits: u64) -> AllocationId {
        AllocationId::from_bits(bits)
    }

    #[test]
    fn a_token_is_that_of_its_lease_alone() {
        let random = || AccessKey::random().expect("random numbers");
        let (key, other) = (random(), random());
        let token = key.token(lease(7), FencingToken::new(1));
        assert_eq!(allocation_of(&token), Some(lease(7)));
        assert!(key.is_token_of(&token, lease(7), FencingToken::new(1)));
        assert!(!key.is_token_of(&token, lease(8), FencingToken::new(1)), "another lease");
        assert!(!key.is_token_of(&token, lease(7), FencingToken::new(2)), "a later lease of the same id");
        assert!(!other.is_token_of(&token, lease(7), FencingToken::new(1)), "another key");
        assert_eq!(token, key.token(lease(7), FencingToken::new(1)), "tokens are deterministic");
    }

    #[test]
    fn an_invalid_token_is_refused() {
        let key = AccessKey::random().expect("random numbers");
        let token = key.token(lease(7), FencingToken::new(1));
        let (id, hash) = token.split_once('.').expect("two parts");
        let mut wrong = hash.to_owned();
        wrong.replace_range(..1, if hash.starts_with('0') { "1" } else { "0" });
        for text in ["", ".", id, &format!("{id}."), &format!("{id}.{}", &hash[2..]), &format!("{id}.{wrong}")] {
            assert!(!key.is_token_of(text, lease(7), FencingToken::new(1)), "{text:?}");
        }
        let odd = [format!("{id}.{}", hash.to_uppercase()), format!("{id}.+{}", &hash[1..])];
        for text in [format!("{token}0"), format!("{token}00"), format!("{id}.é{}", &hash[2..])].into_iter().chain(odd)
        {
            assert!(!key.is_token_of(&text, lease(7), FencingToken::new(1)), "{text:?}");
        }
    }

    #[test]
    fn a_stored_key_is_read_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state.key");
        let key = AccessKey::load_or_create(&path).expect("a new key");
        let token = key.token(lease(7), FencingToken::new(1));
        let again = AccessKey::load_or_create(&path).expect("the same key");
        assert!(again.is_token_of(&token, lease(7), FencingToken::new(1)));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("a file");
            let error = AccessKey::load_or_create(&path).expect_err("others may read it");
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("a file");
        }
        std::fs::write(&path, "short").expect("a file");
        assert_eq!(AccessKey::load_or_create(&path).expect_err("no key").kind(), io::ErrorKind::InvalidData);
        assert_eq!(format!("{key:?}"), "AccessKey(..)");
    }
}
