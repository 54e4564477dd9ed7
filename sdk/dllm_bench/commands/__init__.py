"""The commands of `dllm-bench`, one file each, named after it: options in, one public function, text out."""
