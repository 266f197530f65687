// Package check asks an installation from within, as pods and the API server
// reach it, whether it works: what `helm test` runs. It needs no permission.
package check

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/weir-dev/weir/controllers/link"
	"github.com/weir-dev/weir/sidecar/limiter"
	"github.com/weir-dev/weir/sidecar/ruleset"
)

const (
	// patience with one part, which may just be starting.
	patience = 30 * time.Second
	// between is how long is waited before a part is asked again.
	between = time.Second
	// requestTimeout bounds one answer.
	requestTimeout = 5 * time.Second
)

// Options say where the installation is.
type Options struct {
	// Webhook and Link are the Services' https URLs, without a path.
	Webhook, Link string
	// Roots verify their certificates.
	Roots *x509.CertPool
	// Store is the Redis that limits are counted in.
	Store ruleset.Store
	// Patience with each part, default 30 s; an answer takes 5 s at most.
	Patience time.Duration
}

// Main runs the command `check` with its arguments and returns its exit code.
// What it finds goes to out, a line a part.
func Main(ctx context.Context, arguments []string, out io.Writer) int {
	options, err := parse(arguments, out)
	if err == nil {
		err = Run(ctx, options, out)
	}
	if err != nil {
		fmt.Fprintln(out, "check failed:", err)
		return 1
	}
	return 0
}

func parse(arguments []string, out io.Writer) (Options, error) {
	flags := flag.NewFlagSet("check", flag.ContinueOnError)
	flags.SetOutput(out)
	namespace := flags.String("namespace", "weir-system", "the operator's namespace")
	authorityFile := flags.String("authority-file", "", "file with the PEM authorities of the operator's certificates: ca.crt of the Secret weir-certificates")
	urlFile := flags.String("store-url-file", "", "file with the URL of Redis")
	caFile := flags.String("store-ca-file", "", "file with PEM certificates to verify a rediss:// server with, beside the system's; may be absent")
	insecure := flags.Bool("store-insecure-skip-verify", false, "do not verify a rediss:// server's certificate")
	if err := flags.Parse(arguments); err != nil {
		return Options{}, err
	}
	authorities, err := os.ReadFile(*authorityFile)
	if err != nil {
		return Options{}, fmt.Errorf("reading --authority-file: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(authorities) {
		return Options{}, fmt.Errorf("--authority-file %s holds no PEM certificate", *authorityFile)
	}
	url, err := link.ReadSetting(*urlFile)
	if err != nil {
		return Options{}, fmt.Errorf("reading --store-url-file: %w", err)
	}
	if url == "" {
		return Options{}, fmt.Errorf("--store-url-file %s is absent or empty: give the Secret of the store a key url", *urlFile)
	}
	ca, err := link.ReadSetting(*caFile)
	if err != nil {
		return Options{}, fmt.Errorf("reading --store-ca-file: %w", err)
	}
	return Options{
		Webhook: "https://weir-webhook-0." + *namespace + ".svc:443",
		Link:    "https://weir-link." + *namespace + ".svc:9444",
		Roots:   roots,
		Store: ruleset.Store{
			URL: url, CABundle: ca, InsecureSkipVerify: *insecure, TimeoutMillis: requestTimeout.Milliseconds(),
		},
	}, nil
}

// Run asks every part, each until it answers well or patience ends, and returns
// what was wrong with those that did not.
func Run(ctx context.Context, options Options, out io.Writer) error {
	if options.Patience == 0 {
		options.Patience = patience
	}
	client := &http.Client{Timeout: requestTimeout, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: options.Roots, MinVersion: tls.VersionTLS13},
		// A new connection each time may reach another replica.
		DisableKeepAlives: true,
	}}
	var failures []error
	for _, part := range []struct {
		name string
		ask  func(context.Context) error
	}{
		{"the store answers", func(ctx context.Context) error { return store(ctx, options.Store) }},
		{"the webhook injects", func(ctx context.Context) error { return injects(ctx, client, options.Webhook) }},
		{"the link asks who calls", func(ctx context.Context) error { return asksWho(ctx, client, options.Link) }},
	} {
		if err := until(ctx, options.Patience, part.ask); err != nil {
			failures = append(failures, fmt.Errorf("not so: %s: %w", part.name, err))
			continue
		}
		fmt.Fprintln(out, "ok:", part.name)
	}
	return errors.Join(failures...)
}

// until asks again until ask succeeds, and returns its last error when patience
// has ended. An answer that is under way then is still waited for.
func until(ctx context.Context, patience time.Duration, ask func(context.Context) error) error {
	ended := time.After(patience)
	for {
		err := ask(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-ended:
			return err
		case <-time.After(between):
		}
	}
}

// store asks Redis as sidecars do. Its errors never hold the URL.
func store(ctx context.Context, settings ruleset.Store) error {
	limits := limiter.New(limiter.Options{})
	defer limits.Close()
	if err := limits.Use(&settings); err != nil {
		return err
	}
	return limits.Ping(ctx)
}
