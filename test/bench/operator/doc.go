// Package operator measures the operator at scale: the built binary, as a
// process with its own service account's rights, against a real kube-apiserver
// and etcd, with real pods as objects and the sidecars' own link client for
// each of them, with tokens bound to the pods.
//
// No kubelet runs: the pods are made through the operator's own webhook, and
// their status is written as a kubelet would. All of it (API server, etcd,
// Redis, every sidecar) shares one machine's processors, so times hold what the
// sidecars themselves and the API server take; of CPU and memory only the
// operator's own are told.
//
// It needs Linux, for what the kernel says of processes.
package operator

import (
	"fmt"
	"time"
)

// Options of a run.
type Options struct {
	// Root is the repository's folder.
	Root string
	// Assets is the folder with kube-apiserver and etcd.
	Assets string
	// Policies and Pods are how many; at least 4 and 20.
	Policies, Pods int
	// Edits of each kind: with fewer than 100 the 99th percentile is the longest.
	Edits int
	// Rest is how long the operator is watched while nothing happens.
	Rest time.Duration
	// Admissions that are asked for directly, and a fifth as many by creating pods.
	Admissions int
	// Profile is a folder for heap and CPU profiles; empty: none.
	Profile string
}

// Full is a whole run: about 9 minutes on 2 processors.
func Full() Options {
	return Options{Root: ".", Policies: 1000, Pods: 10000, Edits: 100, Rest: time.Minute, Admissions: 1000}
}

func (o *Options) check() error {
	const most = 15000 // connections, of the files that a process may open
	switch {
	case o.Policies < 4 || o.Policies > 100000:
		return fmt.Errorf("POLICIES is %d: want 4 to 100000", o.Policies)
	case o.Pods < 20 || o.Pods > most:
		return fmt.Errorf("PODS is %d: want 20 to %d", o.Pods, most)
	case o.Edits < 1 || o.Admissions < 5:
		return fmt.Errorf("%d edits and %d admissions are too few to measure", o.Edits, o.Admissions)
	}
	return nil
}
