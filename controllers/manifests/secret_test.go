package manifests

import "testing"

func TestTheWorkersURLSaysHowToVerifyTLS(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		reason string
		broker Broker
		want   string
	}{
		{"plain TCP is left as it is", Broker{URL: "redis://:pw@redis:6379/1", CABundle: "PEM"}, "redis://:pw@redis:6379/1"},
		{"Celery refuses TLS without ssl_cert_reqs", Broker{URL: "rediss://redis:6379"}, "rediss://redis:6379?ssl_cert_reqs=required"},
		{
			"an authority of one's own is the mounted file", Broker{URL: "rediss://redis:6379/0?a=b", CABundle: "PEM"},
			"rediss://redis:6379/0?a=b&ssl_cert_reqs=required&ssl_ca_certs=/etc/weir/broker/ca.crt",
		},
		{
			"what the URL says already stays", Broker{URL: "rediss://redis:6379?ssl_cert_reqs=none&ssl_ca_certs=/x", CABundle: "PEM"},
			"rediss://redis:6379?ssl_cert_reqs=none&ssl_ca_certs=/x",
		},
	} {
		if got := workerURL(test.broker); got != test.want {
			t.Errorf("%s: got %s, want %s", test.reason, got, test.want)
		}
	}
}
