package certs

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

const (
	// externalPropagation is the default of Options.Propagation for certificates
	// of somebody else's. Whoever is connected hears of an authority at once.
	externalPropagation = 5 * time.Minute
	// retention is how long an authority that the Secret no longer names stays in
	// the bundle after the certificate that succeeded it was served first.
	retention = 24 * time.Hour
	// annotationServedSince on our own Secret is when that was.
	annotationServedSince = "weir.dev/served-since"
)

// ErrNoCertificate says that the Secret that somebody else fills is not there yet, or
// has nothing to serve in it.
var ErrNoCertificate = errors.New("no certificate to serve")

// handover is to the next certificate, not served yet.
type handover struct {
	leaf  *x509.Certificate
	since time.Time
}

// external is what somebody else put into the Secret.
type external struct {
	certificate *tls.Certificate
	authorities []*x509.Certificate
	chain, key  []byte // PEM of certificate
}

// adopt takes over what somebody else, such as cert-manager, has put into the
// Secret Options.External. That replaces certificate and authority in one write,
// so whoever verifies with the former authority must first hear of the next: it
// joins the bundle at once, and what it signed is served when the bundle has had
// the time to reach everybody, or the former certificate ends. What is served,
// and the bundle, are kept in our own Secret: so replicas that start meanwhile
// do the same, and so does an operator that was told only now to take its
// certificate from somebody else.
func (k *Keeper) adopt(ctx context.Context) error {
	found, err := k.external(ctx)
	if err != nil {
		if k.held.Load() == nil && k.keep(ctx) {
			k.options.Logger.Error(err, "serving the certificate that was served before")
			return nil
		}
		return err
	}
	return k.retry(func() error { return k.tryToAdopt(ctx, found) })
}

// keep serves what our own Secret says was served last, if that is still valid.
func (k *Keeper) keep(ctx context.Context) bool {
	kept, _, err := k.secret(ctx)
	if err != nil {
		return false
	}
	before := k.before(kept)
	if before == nil || !verifies(before.certificate.Leaf, decodeCertificates(before.bundle)) && len(before.certificate.Certificate) < 2 {
		return false
	}
	k.take(before)
	return true
}

// before is what our own Secret says was served last; nil when it has ended.
func (k *Keeper) before(kept *corev1.Secret) *held {
	pair, err := tls.X509KeyPair(kept.Data[corev1.TLSCertKey], kept.Data[corev1.TLSPrivateKeyKey])
	if err != nil || expired(pair.Leaf, k.options.Now()) {
		return nil
	}
	return &held{certificate: &pair, bundle: kept.Data[keyBundle]}
}

func (k *Keeper) tryToAdopt(ctx context.Context, found *external) error {
	kept, missing, err := k.secret(ctx)
	if err != nil {
		return err
	}
	now := k.options.Now()
	known := decodeCertificates(kept.Data[keyBundle])
	before := k.held.Load()
	if before != nil {
		known = append(known, decodeCertificates(before.bundle)...)
	} else {
		before = k.before(kept)
	}

	next := &held{certificate: found.certificate}
	early := before != nil && k.early(now, before, found.certificate.Leaf, k.held.Load() == nil)
	servedSince, err := time.Parse(time.RFC3339, kept.Annotations[annotationServedSince])
	switch {
	case early:
		next.certificate = before.certificate
	case err != nil || !bytes.Equal(kept.Data[corev1.TLSCertKey], found.chain):
		servedSince = now
	case now.After(servedSince.Add(retention)):
		known = nil
	}
	next.bundle = encodeCertificates(merge(now, known, found.authorities)...)

	data := map[string][]byte{keyBundle: next.bundle, corev1.TLSCertKey: found.chain, corev1.TLSPrivateKeyKey: found.key}
	if early && !missing {
		// Another replica may be past that; it is not undone.
		data[corev1.TLSCertKey], data[corev1.TLSPrivateKeyKey] = kept.Data[corev1.TLSCertKey], kept.Data[corev1.TLSPrivateKeyKey]
		for _, own := range []string{keySigner, keyNext} {
			if key := kept.Data[own]; key != nil {
				data[own] = key
			}
		}
	}
	published := k.publish(ctx, next.bundle)
	if published != nil && (before == nil || !verifies(next.certificate.Leaf, decodeCertificates(before.bundle))) {
		return published // nobody would accept it
	}
	since := servedSince.UTC().Format(time.RFC3339)
	if !early && kept.Annotations[annotationServedSince] != since || !reflect.DeepEqual(kept.Data, data) {
		kept.Data = data
		if !early {
			metav1.SetMetaDataAnnotation(&kept.ObjectMeta, annotationServedSince, since)
		}
		if err := k.write(ctx, kept, missing); err != nil {
			return err
		}
	}
	recordExpiry(next.certificate.Leaf, found.authorities...)
	k.take(next)
	return published
}

// early says that a certificate is not to be served yet: nobody knew who signed
// it until a moment ago. A replica that starts cannot tell, and waits too.
func (k *Keeper) early(now time.Time, before *held, leaf *x509.Certificate, starts bool) bool {
	if before.certificate.Leaf.Equal(leaf) {
		k.handover = handover{}
		return false
	}
	if k.handover.leaf == nil || !k.handover.leaf.Equal(leaf) {
		running := k.handover.leaf != nil
		if !running && !starts && verifies(leaf, decodeCertificates(before.bundle)) {
			return false
		}
		k.handover.leaf = leaf
		if !running { // else it was issued again meanwhile
			k.handover.since = now
			k.options.Logger.Info("the next certificate has another authority, which is published first", "servedIn", k.rules.propagation.String())
		}
	}
	return now.Before(k.handover.ends(k, before))
}

// ends is when the next certificate is served.
func (h *handover) ends(k *Keeper, before *held) time.Time {
	ends := h.since.Add(k.rules.propagation)
	if last := before.certificate.Leaf.NotAfter.Add(-k.options.Interval * 2); last.Before(ends) {
		return last
	}
	return ends
}

// external reads and checks the Secret. Errors hold nothing of a key.
func (k *Keeper) external(ctx context.Context) (*external, error) {
	secret := &corev1.Secret{}
	key := client.ObjectKey{Namespace: k.options.Namespace, Name: k.options.External}
	if err := k.options.Client.Get(ctx, key, secret); apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("%w: Secret %s does not exist yet; whoever makes it (kubectl -n %s get certificate,certificaterequest) says why", ErrNoCertificate, key, key.Namespace)
	} else if err != nil {
		return nil, fmt.Errorf("reading the certificate in Secret %s: %w", key, err)
	}
	found := &external{authorities: decodeCertificates(secret.Data[keyBundle])}
	if len(found.authorities) == 0 {
		return nil, fmt.Errorf("%w: %s of Secret %s holds no authority to verify with; the issuer must be one that publishes its own, such as cert-manager's CA, SelfSigned or Vault", ErrNoCertificate, keyBundle, key)
	}
	if len(found.authorities) > maxBundle {
		return nil, fmt.Errorf("%w: %s of Secret %s holds %d authorities, at most %d are read", ErrNoCertificate, keyBundle, key, len(found.authorities), maxBundle)
	}
	certificate, err := tls.X509KeyPair(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		return nil, fmt.Errorf("%w: %s and %s of Secret %s are not a certificate and its key", ErrNoCertificate, corev1.TLSCertKey, corev1.TLSPrivateKeyKey, key)
	}
	found.certificate = &certificate
	found.chain, found.key = secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey]
	return found, k.suits(found, key)
}

// suits says why clients would not accept the certificate.
func (k *Keeper) suits(found *external, key client.ObjectKey) error {
	between := x509.NewCertPool()
	for _, der := range found.certificate.Certificate[1:] {
		if cert, err := x509.ParseCertificate(der); err == nil {
			between.AddCert(cert)
		}
	}
	for _, name := range k.rules.dnsNames {
		if _, err := found.certificate.Leaf.Verify(x509.VerifyOptions{
			DNSName: name, Roots: pool(found.authorities), Intermediates: between, CurrentTime: k.options.Now(),
		}); err != nil {
			return fmt.Errorf("%w: that in Secret %s does not verify for %s: %w", ErrNoCertificate, key, name, err)
		}
	}
	return nil
}

// verifies says whether somebody who knows only the authorities accepts leaf.
func verifies(leaf *x509.Certificate, authorities []*x509.Certificate) bool {
	return slices.ContainsFunc(authorities, func(authority *x509.Certificate) bool {
		return authority.Equal(leaf) || leaf.CheckSignatureFrom(authority) == nil
	})
}

// merge is the bundle to publish: what was known before, in its order, and what
// is known now.
func merge(now time.Time, known, current []*x509.Certificate) []*x509.Certificate {
	var bundle []*x509.Certificate
	for _, cert := range slices.Concat(known, current) {
		if !expired(cert, now) && !slices.ContainsFunc(bundle, cert.Equal) {
			bundle = append(bundle, cert)
		}
	}
	return bundle[max(0, len(bundle)-2*maxBundle):] // the newest are last
}

func pool(certs []*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, cert := range certs {
		pool.AddCert(cert)
	}
	return pool
}
