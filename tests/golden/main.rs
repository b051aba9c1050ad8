//! The oracles' answers for the small networks of this folder: forward, backward, search, and quantized inference, on
//! every device.

mod best;
#[path = "../common/mod.rs"]
mod common;
mod evidence;
mod inference;
mod landscape;
mod literal;
mod network;
mod oracle;
mod passes;
mod preparation;
mod search;

/// A test of each check for each golden network.
macro_rules! tests {
    ($($network:ident: $($module:ident::$check:ident)*;)*) => {
        $(mod $network {
            $(#[test]
            fn $check() {
                super::$module::$check(&super::network::Golden::open(stringify!($network)));
            })*
        })*
    };
}

tests! {
    vit_micro:
        best::written_files_give_the_oracles_logits
        best::reparametrised_tensors_are_the_oracles
        passes::forward_and_backward
        search::the_literal_score_is_the_oracles
        search::every_setting_reaches_the_golden_scores
        search::abandoning_candidates_early_changes_no_choice
        search::what_candidates_reached_is_what_the_exhaustive_search_finds
        search::a_single_site_reaches_the_golden_score
        landscape::losses_and_scores_are_those_of_the_definition
        landscape::candidates_are_the_searchs
        landscape::landscapes_do_not_depend_on_the_memory
        evidence::the_evidence_is_that_of_plain_sums
        evidence::the_evidence_does_not_depend_on_the_memory
        preparation::layer_norms_lose_their_ranges_and_no_logit_changes
        preparation::a_corrected_bias_leaves_no_mean_error
        inference::quantized_inference_from_the_golden_scales;
    // Without the exhaustive search, which knows nothing of networks and takes minutes here.
    swin_micro:
        best::written_files_give_the_oracles_logits
        best::reparametrised_tensors_are_the_oracles
        passes::forward_and_backward
        passes::an_older_checkpoint_is_the_same_network
        search::the_literal_score_is_the_oracles
        search::every_setting_reaches_the_golden_scores
        search::a_single_site_reaches_the_golden_score
        landscape::losses_and_scores_are_those_of_the_definition
        evidence::the_evidence_is_that_of_plain_sums
        preparation::layer_norms_lose_their_ranges_and_no_logit_changes
        preparation::a_corrected_bias_leaves_no_mean_error
        inference::quantized_inference_from_the_golden_scales;
    // Of these there are only the FP network's answers.
    distilled_micro:
        passes::forward_and_backward
        preparation::layer_norms_lose_their_ranges_and_no_logit_changes;
    ragged_micro:
        best::written_files_give_the_oracles_logits
        best::reparametrised_tensors_are_the_oracles
        passes::forward_and_backward
        evidence::the_evidence_is_that_of_plain_sums
        preparation::layer_norms_lose_their_ranges_and_no_logit_changes
        inference::integers_give_what_rounded_floats_give;
    layer_scale_micro:
        best::written_files_give_the_oracles_logits
        best::reparametrised_tensors_are_the_oracles
        passes::forward_and_backward
        evidence::the_evidence_is_that_of_plain_sums
        preparation::layer_norms_lose_their_ranges_and_no_logit_changes
        inference::integers_give_what_rounded_floats_give;
    // Answers that are features, whose losses are random, or a head on the mean of the patches.
    class_token_micro:
        passes::forward_and_backward
        landscape::losses_and_scores_are_those_of_the_definition
        preparation::layer_norms_lose_their_ranges_and_no_logit_changes
        inference::integers_give_what_rounded_floats_give;
    mean_head_micro:
        passes::forward_and_backward
        evidence::the_evidence_is_that_of_plain_sums
        preparation::layer_norms_lose_their_ranges_and_no_logit_changes
        inference::integers_give_what_rounded_floats_give;
    // CLIP's: other forms of GELU, a projection.
    clip_micro:
        best::written_files_give_the_oracles_logits
        best::reparametrised_tensors_are_the_oracles
        passes::forward_and_backward
        preparation::layer_norms_lose_their_ranges_and_no_logit_changes
        inference::integers_give_what_rounded_floats_give;
    clip_head_micro:
        passes::forward_and_backward
        evidence::the_evidence_is_that_of_plain_sums
        preparation::layer_norms_lose_their_ranges_and_no_logit_changes
        inference::integers_give_what_rounded_floats_give;
    // ReLU's values after fc1, none of which is negative.
    relu_micro:
        best::written_files_give_the_oracles_logits
        best::reparametrised_tensors_are_the_oracles
        passes::forward_and_backward
        evidence::the_evidence_is_that_of_plain_sums
        preparation::layer_norms_lose_their_ranges_and_no_logit_changes
        inference::integers_give_what_rounded_floats_give;
    // Norms after attention and MLP, no class token, qkv without a bias.
    post_norm_micro:
        best::written_files_give_the_oracles_logits
        passes::forward_and_backward
        evidence::the_evidence_is_that_of_plain_sums
        inference::integers_give_what_rounded_floats_give;
    // Images that are grey, and that have alpha.
    grey_micro:
        best::written_files_give_the_oracles_logits
        best::reparametrised_tensors_are_the_oracles
        passes::forward_and_backward
        evidence::the_evidence_is_that_of_plain_sums
        preparation::layer_norms_lose_their_ranges_and_no_logit_changes
        inference::integers_give_what_rounded_floats_give;
    alpha_micro:
        best::written_files_give_the_oracles_logits
        best::reparametrised_tensors_are_the_oracles
        passes::forward_and_backward
        evidence::the_evidence_is_that_of_plain_sums
        preparation::layer_norms_lose_their_ranges_and_no_logit_changes
        inference::integers_give_what_rounded_floats_give;
    // Images that aren't squares, with positions of each kind.
    oblong_micro:
        best::written_files_give_the_oracles_logits
        best::reparametrised_tensors_are_the_oracles
        passes::forward_and_backward
        evidence::the_evidence_is_that_of_plain_sums
        preparation::layer_norms_lose_their_ranges_and_no_logit_changes
        inference::integers_give_what_rounded_floats_give;
    oblong_dinov3_micro:
        best::written_files_give_the_oracles_logits
        best::reparametrised_tensors_are_the_oracles
        passes::forward_and_backward
        inference::integers_give_what_rounded_floats_give;
    oblong_eva02_micro:
        passes::forward_and_backward
        inference::integers_give_what_rounded_floats_give;
    oblong_beit_micro:
        best::written_files_give_the_oracles_logits
        best::reparametrised_tensors_are_the_oracles
        passes::forward_and_backward
        inference::integers_give_what_rounded_floats_give;
    // SigLIP's: no class token, pooling by attention; patches that don't fill the image, registers.
    siglip_micro:
        best::written_files_give_the_oracles_logits
        best::reparametrised_tensors_are_the_oracles
        passes::forward_and_backward
        preparation::layer_norms_lose_their_ranges_and_no_logit_changes
        inference::integers_give_what_rounded_floats_give;
    siglip_head_micro:
        passes::forward_and_backward
        evidence::the_evidence_is_that_of_plain_sums
        preparation::layer_norms_lose_their_ranges_and_no_logit_changes
        inference::integers_give_what_rounded_floats_give;
    // DINOv3's: rotary positions, qkv without a bias and with one.
    dinov3_micro:
        best::written_files_give_the_oracles_logits
        best::reparametrised_tensors_are_the_oracles
        passes::forward_and_backward
        preparation::layer_norms_lose_their_ranges_and_no_logit_changes
        inference::integers_give_what_rounded_floats_give;
    dinov3_head_micro:
        passes::forward_and_backward
        evidence::the_evidence_is_that_of_plain_sums
        preparation::layer_norms_lose_their_ranges_and_no_logit_changes
        inference::integers_give_what_rounded_floats_give;
    // BEiT's: relative positions of patches and the class token; biases of queries and values, none of keys.
    beit_micro:
        best::written_files_give_the_oracles_logits
        best::reparametrised_tensors_are_the_oracles
        passes::forward_and_backward
        evidence::the_evidence_is_that_of_plain_sums
        preparation::layer_norms_lose_their_ranges_and_no_logit_changes
        inference::integers_give_what_rounded_floats_give;
    beit_features_micro:
        passes::forward_and_backward
        preparation::layer_norms_lose_their_ranges_and_no_logit_changes
        inference::integers_give_what_rounded_floats_give;
    tokens_micro:
        passes::forward_and_backward
        preparation::layer_norms_lose_their_ranges_and_no_logit_changes
        inference::integers_give_what_rounded_floats_give;
    // Gated MLPs, with one product for gate and hidden features and with one for each.
    gated_micro:
        best::written_files_give_the_oracles_logits
        best::reparametrised_tensors_are_the_oracles
        passes::forward_and_backward
        preparation::layer_norms_lose_their_ranges_and_no_logit_changes
        inference::integers_give_what_rounded_floats_give;
    gated_head_micro:
        passes::forward_and_backward
        evidence::the_evidence_is_that_of_plain_sums
        preparation::layer_norms_lose_their_ranges_and_no_logit_changes
        inference::integers_give_what_rounded_floats_give;
    // EVA-02's: rotary positions besides learned ones, gated MLPs, with a norm and without.
    eva02_micro:
        passes::forward_and_backward
        preparation::layer_norms_lose_their_ranges_and_no_logit_changes
        inference::integers_give_what_rounded_floats_give;
    eva02_head_micro:
        passes::forward_and_backward
        evidence::the_evidence_is_that_of_plain_sums
        preparation::layer_norms_lose_their_ranges_and_no_logit_changes
        inference::integers_give_what_rounded_floats_give;
    // Swin V2's: scores that are scaled cosines, biases that an MLP makes, norms after attention, MLP and merging.
    swin_v2_micro:
        best::written_files_give_the_oracles_logits
        passes::forward_and_backward
        evidence::the_evidence_is_that_of_plain_sums
        inference::integers_give_what_rounded_floats_give;
    mean_micro:
        passes::forward_and_backward
        preparation::layer_norms_lose_their_ranges_and_no_logit_changes;
    two_tokens_micro:
        passes::forward_and_backward
        preparation::layer_norms_lose_their_ranges_and_no_logit_changes;
    swin_features_micro:
        passes::forward_and_backward
        preparation::layer_norms_lose_their_ranges_and_no_logit_changes;
}
