//! The `qualm` program.

fn main() -> std::process::ExitCode {
    qualm::cli::main()
}
