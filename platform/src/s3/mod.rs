//! Charts and snapshots on Amazon S3.
