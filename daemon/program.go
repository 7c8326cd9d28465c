package main

import (
	"io"

	"github.com/multi-eni/multi-eni-cni/pkg/buildinfo"
)

// version and commit are set by the linker; main completes them.
var (
	version = buildinfo.Unset
	commit  string
)

// program is the process's edge.
type program struct {
	stdout, stderr io.Writer
	getenv         func(string) string
}
