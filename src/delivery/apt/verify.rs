//! Whether a repository is as its clients need it: signatures, indexes, hashes and packages.

use std::fs;

use serde::Serialize;

use super::index::{self, ALGORITHMS, Sums};
use super::sign::PublicKeys;
use super::{Error, Repository, suite};
use crate::model::Timestamp;

/// What was looked at, and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub suites: usize,
    pub packages: usize,
    /// One line each; none when all is well.
    pub problems: Vec<String>,
}

impl Repository {
    /// Reads everything that a client could, packages included, and reports all that is wrong.
    pub fn verify(&self, now: Timestamp) -> Result<Report, Error> {
        let mut report = Report::default();
        let Some(keys) = PublicKeys::of(&self.root)? else {
            report.problems.push("key.gpg is missing: no client can trust this repository".to_owned());
            return Ok(report);
        };
        for name in self.suites()? {
            report.suites += 1;
            self.verify_suite(&name, &keys, now, &mut report);
        }
        Ok(report)
    }

    fn verify_suite(&self, name: &str, keys: &PublicKeys, now: Timestamp, report: &mut Report) {
        match suite::read(&self.root, name) {
            Ok(Some(found)) => {
                report.packages += found.entries.len();
                self.verify_signatures(name, &found.generation, keys, report);
                self.verify_indexes(name, &found, report);
                self.verify_pool(name, &found, report);
                let until = found.release.get("Valid-Until").and_then(index::read_date);
                if until.is_some_and(|until| until < now) {
                    report.problems.push(format!("{name}: its Valid-Until is over; refresh it"));
                }
            }
            Ok(None) => report.problems.push(format!("{name}: it is gone")),
            Err(error) => report.problems.push(format!("{name}: {error}")),
        }
    }

    fn verify_signatures(&self, name: &str, generation: &str, keys: &PublicKeys, report: &mut Report) {
        let folder = self.root.join("dists").join(generation);
        let read = |file: &str| fs::read_to_string(folder.join(file)).map_err(|error| error.to_string());
        let inline = read("InRelease").and_then(|text| keys.verify_inline(&text));
        let release = read("Release");
        let detached = read("Release.gpg")
            .and_then(|signature| keys.verify_detached(release.clone()?.as_bytes(), &signature));
        if let Err(reason) = detached {
            report.problems.push(format!("{name}: Release.gpg: {reason}"));
        }
        match inline {
            Err(reason) => report.problems.push(format!("{name}: InRelease: {reason}")),
            Ok(signed) if release.as_deref().is_ok_and(|release| release.trim_end() == signed.trim_end()) => {
            }
            Ok(_) => report.problems.push(format!("{name}: InRelease and Release differ")),
        }
    }

    fn verify_indexes(&self, name: &str, found: &suite::Suite, report: &mut Report) {
        let folder = self.root.join("dists").join(&found.generation);
        for (number, algorithm) in ALGORITHMS.iter().enumerate() {
            for (path, size, hash) in index::release_files(&found.release, algorithm) {
                let place = path.rsplit_once('/').map_or("", |(place, _)| place);
                for file in
                    [folder.join(&path), folder.join(place).join("by-hash").join(algorithm).join(&hash)]
                {
                    match Sums::of_file(&file) {
                        Ok(sums) if sums.size == size && sums.hashes[number] == hash => {}
                        Ok(_) => report
                            .problems
                            .push(format!("{name}: {} is not what Release names", file.display())),
                        Err(error) => report.problems.push(format!("{name}: {}: {error}", file.display())),
                    }
                }
            }
        }
    }

    fn verify_pool(&self, name: &str, found: &suite::Suite, report: &mut Report) {
        for entry in &found.entries {
            match Sums::of_file(&self.root.join(entry.filename())) {
                Ok(sums) if sums.size == entry.size() && sums.sha256() == entry.sha256() => {}
                Ok(_) => report
                    .problems
                    .push(format!("{name}: {} has other bytes than its index says", entry.filename())),
                Err(error) => report.problems.push(format!("{name}: {}: {error}", entry.filename())),
            }
        }
    }
}
