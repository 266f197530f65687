package usage

import (
	"net/http/httptest"
	"testing"

	"github.com/weir-dev/weir/api/v1alpha1"
)

// A caller may be named by any bytes. Where JSON cannot say them it would name
// somebody else, whose windows were emptied then.
func TestNamesThatAreNoTextAreNotNamed(t *testing.T) {
	t.Parallel()
	key, policy := []byte("key"), &v1alpha1.RateLimitPolicy{}
	for identity, known := range map[string]bool{"alice": true, "": true, "\u202e\x00": true, "\ufffd": true, "\xff": false, "alice\xc3": false} {
		name := nameOfCaller(key, policy, identity)
		if is := name.Identity != nil && *name.Identity == identity; is != known || (name.Pseudonym == pseudonym(key, policy, identity)) == known {
			t.Errorf("%q is named %+v", identity, name)
		}
		if _, err := named(&identity); (err == nil) != known {
			t.Errorf("asked about %q: error %v", identity, err)
		}
	}
	q := &asked{Request: httptest.NewRequest("GET", "/v1/policies/shop/api/window?identity=%ff", nil)}
	if identity, err := q.identity(); err == nil {
		t.Errorf("the parameter is taken for %q", identity)
	}
	var wanted Caller
	if err := strictly([]byte("{\"identity\": \"\xff\"}"), &wanted); err == nil {
		t.Errorf("the body is taken for %q", *wanted.Identity)
	}
}
