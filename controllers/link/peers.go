package link

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	discoverInterval = 2 * time.Second
	peerBackoff      = time.Second
	peerTimeout      = time.Minute
	maxPageBytes     = 128 << 20
)

// Peers brings what was acknowledged to the other replicas to this one: the leader
// writes it into status, and all tell people. It is a manager.Runnable that every
// replica runs.
type Peers struct {
	// Discover says the addresses, host:port, of the other replicas.
	Discover func(ctx context.Context) ([]string, error)
	// ServerName that the peers' certificates are for.
	ServerName string
	// CABundle is the PEM to verify them with, asked for at every request.
	CABundle func() []byte
	// TokenFile holds the operator's own token, replaced by the kubelet.
	TokenFile        string
	Acknowledgements *Acknowledgements
	Logger           logr.Logger
}

// DiscoverPods finds the operator's other replicas among the pods that a cache
// knows: those that run as its service account, which is also what they prove
// themselves with.
func DiscoverPods(reader client.Reader, namespace, serviceAccount, ownIP string, port int) func(context.Context) ([]string, error) {
	return func(ctx context.Context) ([]string, error) {
		pods := &corev1.PodList{}
		if err := reader.List(ctx, pods, client.InNamespace(namespace)); err != nil {
			return nil, fmt.Errorf("listing the operator's pods: %w", err)
		}
		var addresses []string
		for i := range pods.Items {
			pod := &pods.Items[i]
			if pod.Spec.ServiceAccountName == serviceAccount && pod.Status.Phase == corev1.PodRunning &&
				pod.Status.PodIP != "" && pod.Status.PodIP != ownIP {
				addresses = append(addresses, net.JoinHostPort(pod.Status.PodIP, strconv.Itoa(port)))
			}
		}
		return addresses, nil
	}
}

// NeedLeaderElection is false: every replica says which pods enforce a policy.
func (*Peers) NeedLeaderElection() bool { return false }

// Start follows every peer until ctx ends.
func (p *Peers) Start(ctx context.Context) error {
	following := map[string]context.CancelFunc{}
	defer func() {
		for _, stop := range following {
			stop()
		}
	}()
	ticker := time.NewTicker(discoverInterval)
	defer ticker.Stop()
	for {
		addresses, err := p.Discover(ctx)
		if err != nil {
			p.Logger.Error(err, "cannot find the operator's other replicas: what pods acknowledge to them is not seen")
		} else {
			p.follow(ctx, following, sets.New(addresses...))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (p *Peers) follow(ctx context.Context, following map[string]context.CancelFunc, addresses sets.Set[string]) {
	for address, stop := range following {
		if !addresses.Has(address) {
			stop()
			delete(following, address)
		}
	}
	for address := range addresses {
		if following[address] == nil {
			peer, stop := context.WithCancel(ctx)
			following[address] = stop
			go p.pull(peer, address)
		}
	}
}

// pull asks one peer again and again.
func (p *Peers) pull(ctx context.Context, address string) {
	var last page
	from := &peer{}
	failing := false
	for ctx.Err() == nil {
		next, err := p.ask(ctx, address, last)
		if err == nil {
			if next.Epoch != from.epoch {
				from = &peer{epoch: next.Epoch}
			}
			if !p.Acknowledgements.answered(from, time.Now()) {
				next = page{}
			}
			for _, said := range next.Acknowledgements {
				p.Acknowledgements.merge(said, from)
			}
			last, failing = next, false
			continue
		}
		if !failing && ctx.Err() == nil {
			p.Logger.Error(err, "cannot read what pods acknowledged to another replica", "address", address)
		}
		failing = true
		select {
		case <-ctx.Done():
		case <-time.After(peerBackoff):
		}
	}
}

func (p *Peers) ask(ctx context.Context, address string, last page) (page, error) {
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	token, err := os.ReadFile(p.TokenFile)
	if err != nil {
		return page{}, fmt.Errorf("reading the operator's token: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(p.CABundle()) {
		return page{}, errors.New("verifying another replica: the authority's certificate is not known yet")
	}
	// A connection of its own each time: there is one request in 30 s, and a
	// rotated authority counts at once.
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{RootCAs: roots, ServerName: p.ServerName, MinVersion: tls.VersionTLS13},
		DisableKeepAlives: true,
	}}
	query := url.Values{"epoch": {last.Epoch}, "sequence": {strconv.FormatUint(last.Sequence, 10)}}
	target := url.URL{Scheme: "https", Host: address, Path: AcknowledgementsPath, RawQuery: query.Encode()}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		return page{}, fmt.Errorf("asking replica %s: %w", address, err)
	}
	request.Header.Set("Authorization", "Bearer "+string(bytes.TrimSpace(token)))
	response, err := client.Do(request)
	if err != nil {
		return page{}, fmt.Errorf("asking replica %s: %w", address, err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return page{}, fmt.Errorf("asking replica %s: it answered %s", address, response.Status)
	}
	var next page
	if err := json.NewDecoder(io.LimitReader(response.Body, maxPageBytes)).Decode(&next); err != nil {
		return page{}, fmt.Errorf("reading the acknowledgements of replica %s: %w", address, err)
	}
	return next, nil
}
