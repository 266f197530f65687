//go:build !linux

// Package netns gives tests hosts of their own, on Linux only.
package netns
