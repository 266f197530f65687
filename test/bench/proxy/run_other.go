//go:build !linux

package proxy

import (
	"context"
	"errors"
	"io"
)

var errLinux = errors.New("the part proxy needs Linux: its network namespaces and captured connections")

// Run measures, on Linux.
func Run(context.Context, Options, io.Writer) (*Report, error) { return nil, errLinux }

// Role is one of Run's processes, on Linux.
func Role(context.Context, []string) error { return errLinux }
