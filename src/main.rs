//! The `qualm` program.

/// State is many small blocks of all ages: this makes and frees them in a tenth less time than glibc's.
/// Without huge pages (`no_thp`): to clear 2 MB for each buffer of 64 KB took a quarter of a replay.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    qualm::cli::main()
}
