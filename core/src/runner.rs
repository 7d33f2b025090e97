//! placeholder
/// x
pub struct Runner; /// x
pub struct RunnerError; /// x
pub struct RunnerSettings;
