package main

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/controllers/link"
	"github.com/weir-dev/weir/controllers/manifests"
)

// standard are options that can be obeyed.
func standard() options {
	return options{
		namespace: "weir-system", serviceAccount: "weir-operator", leafLife: time.Hour, authorityLife: 24 * time.Hour,
		profileAddress: "0", storeUsers: "auto", storeUserRotation: 24 * time.Hour, traces: manifests.Traces{Ratio: 0.01},
		settings: link.Settings{StoreTimeout: 100 * time.Millisecond, LinkAddress: "weir-link:9444"},
	}
}

func TestOptionsNameTheFlagThatCannotBeObeyed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		reason string
		change func(*options)
		says   string // empty: no error
	}{
		{"the defaults", func(*options) {}, ""},
		{"a collector", func(o *options) { o.traces.Endpoint = "http://collector:4318" }, ""},
		{"users of Redis always", func(o *options) { o.storeUsers, o.storeUserRotation = "always", time.Minute }, ""},
		{"users of Redis never", func(o *options) { o.storeUsers, o.storeUserRotation = "never", 366*24*time.Hour }, ""},
		{"users of another way", func(o *options) { o.storeUsers = "off" }, "--store-users"},
		{"users of no way", func(o *options) { o.storeUsers = "" }, "--store-users"},
		{"users of seconds", func(o *options) { o.storeUserRotation = 59 * time.Second }, "--store-user-rotation"},
		{"users of years", func(o *options) { o.storeUserRotation = 367 * 24 * time.Hour }, "--store-user-rotation"},
		{"users of part of a second", func(o *options) { o.storeUserRotation += time.Millisecond }, "--store-user-rotation"},
		{"a certificate of its own from elsewhere", func(o *options) { o.certificateSecret = "weir-certificates" }, "--certificate-secret"},
		{"a profile for everybody", func(o *options) { o.profileAddress = ":6060" }, "--profile-address"},
		{"no URL", func(o *options) { o.traces.Endpoint = "collector:4318" }, "--traces-endpoint"},
		{"a password", func(o *options) { o.traces.Endpoint = "http://me:s3cret@collector" }, "--traces-endpoint"},
		{"less than none", func(o *options) { o.traces.Ratio = -0.1 }, "--traces-ratio"},
		{"more than all", func(o *options) { o.traces.Ratio = 1.1 }, "--traces-ratio"},
		{"no number", func(o *options) { o.traces.Ratio = math.NaN() }, "--traces-ratio"},
		{"an unknown pull policy", func(o *options) { o.workerImagePullPolicy = "Sometimes" }, "--worker-image-pull-policy"},
		{"no time for Redis", func(o *options) { o.settings.StoreTimeout = 0 }, "--store-timeout"},
		{"a leaf that outlives its authority", func(o *options) { o.leafLife = 48 * time.Hour }, "--leaf-life"},
		{"no port", func(o *options) { o.settings.LinkAddress = "weir-link" }, "--link-address"},
	} {
		o := standard()
		c.change(&o)
		err := o.check()
		if (err == nil) != (c.says == "") || err != nil && (!strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "s3cret")) {
			t.Errorf("%s: got %v, want an error that says %q", c.reason, err, c.says)
		}
	}
}
