package certs

import (
	"bytes"
	"context"
	"fmt"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// publish writes the bundle into the webhook configuration, when it has another
// one. Without a configuration there is nothing to do: it may be applied later.
func (k *Keeper) publish(ctx context.Context, bundle []byte) error {
	if k.options.WebhookName == "" {
		return nil
	}
	configuration := &admissionregistrationv1.MutatingWebhookConfiguration{}
	err := k.options.Client.Get(ctx, client.ObjectKey{Name: k.options.WebhookName}, configuration)
	if apierrors.IsNotFound(err) {
		k.options.Logger.V(1).Info("there is no MutatingWebhookConfiguration to publish the authorities in", "name", k.options.WebhookName)
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading MutatingWebhookConfiguration %s to publish the authorities: %w", k.options.WebhookName, err)
	}

	before := configuration.DeepCopy()
	changed := false
	for i := range configuration.Webhooks {
		if current := &configuration.Webhooks[i].ClientConfig.CABundle; !bytes.Equal(*current, bundle) {
			*current = bundle
			changed = true
		}
	}
	if !changed {
		return nil
	}
	// Merged by the webhooks' names, so that nobody else's change is undone.
	if err := k.options.Client.Patch(ctx, configuration, client.StrategicMergeFrom(before)); err != nil {
		return fmt.Errorf("publishing the authorities in MutatingWebhookConfiguration %s: %w", k.options.WebhookName, err)
	}
	k.options.Logger.Info("published the authorities", "webhookConfiguration", k.options.WebhookName)
	return nil
}
