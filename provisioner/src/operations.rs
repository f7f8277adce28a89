//! The kinds of operations. Each is a file: its steps, how each is done, how each is undone.

use control_types::state::OperationKind;
use provisioner_api::sites::{DryRun, PlannedStep};

use crate::engine::{Kind, PlannedOperation, kind::step_name};

mod changeover;
pub mod create_preview;
pub mod create_site;
pub mod delete_site;
pub mod move_site;
pub mod move_site_back;
mod opening;
mod placed;
pub mod restore_site;
pub mod restoring;
pub mod retire_placement;
pub mod undo_restore;

/// What a kind is, for those who only show it.
pub fn planned(kind: OperationKind) -> PlannedOperation {
    match kind {
        OperationKind::CreateSite => PlannedOperation::of::<create_site::CreateSite>(),
        OperationKind::DeleteSite => PlannedOperation::of::<delete_site::DeleteSite>(),
        OperationKind::MoveSite => PlannedOperation::of::<move_site::MoveSite>(),
        OperationKind::MoveSiteBack => PlannedOperation::of::<move_site_back::MoveSiteBack>(),
        OperationKind::RetirePlacement => {
            PlannedOperation::of::<retire_placement::RetirePlacement>()
        }
        OperationKind::CreatePreview => PlannedOperation::of::<create_preview::CreatePreview>(),
        OperationKind::RestoreSite => PlannedOperation::of::<restore_site::RestoreSite>(),
        OperationKind::UndoRestore => PlannedOperation::of::<undo_restore::UndoRestore>(),
    }
}

/// What an operation of kind `K` would do, and how long others of its kind took.
pub fn dry_run<K: Kind>(params: &K::Params, estimated_ms: Option<u64>) -> DryRun {
    DryRun {
        steps: K::STEPS
            .iter()
            .map(|step| PlannedStep {
                step: step_name(step),
                description: K::describe(*step, params),
            })
            .collect(),
        pivot: K::PIVOT.map(step_name),
        estimated_ms,
        problems: Vec::new(),
        waits: Vec::new(),
        bytes: None,
        pause_ms: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A list may change only together with its version: operations that are under way when a new
    /// provisioner starts were made with the old one.
    #[test]
    fn the_lists_of_steps() {
        let listing: Vec<_> = OperationKind::ALL
            .iter()
            .map(|kind| {
                let planned = planned(*kind);
                let pivot = planned.shape.pivot.map(|index| planned.steps[index].clone());
                format!(
                    "{kind} v{}: {} | pivot {}",
                    planned.plan_version,
                    planned.steps.join(" "),
                    pivot.unwrap_or_default()
                )
            })
            .collect();
        assert_eq!(
            listing,
            [
                "create_site v1: reserve_names choose_placement create_roles create_database \
                 create_storage_key seed_site issue_certificates start_instance publish_route \
                 await_routers | pivot publish_route",
                "delete_site v1: close_site stop_instance take_final_restore_point \
                 await_grace_period drop_database drop_roles delete_objects release_names \
                 | pivot drop_database",
                "move_site v1: preflight choose_placement create_roles create_database \
                 create_storage_key copy_certificates start_copy copy_files await_copy \
                 start_instance await_moment copy_new_files compare arm_way_back switch \
                 turn_round certify | pivot switch",
                "move_site_back v1: preflight take_generation copy_certificates start_instance \
                 copy_files compare arm_way_back switch turn_round certify | pivot switch",
                "retire_placement v1: stop_following stop_instance drop_database drop_roles \
                 delete_objects remove_certificates record | pivot stop_following",
                "create_preview v1: reserve_names choose_placement create_roles create_database \
                 restore_database adopt_database create_storage_key issue_certificates \
                 start_instance publish_route await_routers | pivot publish_route",
                "restore_site v1: preflight choose_placement create_roles create_database \
                 restore_database adopt_database create_storage_key start_instance \
                 prepare_switch switch keep_source | pivot switch",
                "undo_restore v1: preflight take_generation start_instance prepare_switch switch \
                 keep_source | pivot switch",
            ]
        );
    }
}
