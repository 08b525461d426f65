"""What tests and their readers use beside the tests: long runs, fuzzers, stand-ins."""
