package main

import (
	"strings"
	"testing"
	"time"

	"github.com/weir-dev/weir/controllers/link"
)

func TestFlagsOfTheStoresUsersAreChecked(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		users    string
		rotation time.Duration
		says     string
	}{
		{"auto", 24 * time.Hour, ""},
		{"always", time.Minute, ""},
		{"never", 366 * 24 * time.Hour, ""},
		{"off", time.Hour, "--store-users"},
		{"", time.Hour, "--store-users"},
		{"auto", 59 * time.Second, "--store-user-rotation"},
		{"auto", 367 * 24 * time.Hour, "--store-user-rotation"},
		{"auto", time.Hour + time.Millisecond, "--store-user-rotation"},
	} {
		o := options{
			storeUsers: test.users, storeUserRotation: test.rotation, leafLife: time.Hour, authorityLife: 24 * time.Hour,
			settings: link.Settings{StoreTimeout: 100 * time.Millisecond, LinkAddress: "weir-link:9444"},
		}
		err := o.check()
		if (err == nil) != (test.says == "") || err != nil && !strings.Contains(err.Error(), test.says) {
			t.Errorf("--store-users=%s --store-user-rotation=%v: error %v, want one that says %q", test.users, test.rotation, err, test.says)
		}
	}
}
